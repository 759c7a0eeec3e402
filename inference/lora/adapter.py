"""A PEFT adapter as the engine uses it: validated, in the engine's dtype, all constants folded in.

An adapter comes from a stranger. Nothing of it is executed, every byte that is used was hashed first, and all
that this engine cannot serve exactly is refused by an error that names the place.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.errors import AdapterDigestMismatchError
from inference.kernels.portable import PortableKernels
from inference.lora.block import reserve
from inference.lora.config import read_config
from inference.lora.files import MAX_CONFIG_DEPTH, ReadMemory, read_adapter_files
from inference.lora.fold import find_runs, fold
from inference.lora.header import LENGTH_BYTES, header_of, max_header_bytes, read_header
from inference.lora.strict_json import parse_object
from inference.lora.tensors import TENSORS_PER_LINEAR, group_by_linear
from inference.model.architecture import PARENT_BY_LINEAR

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from inference.kernels.interface import Kernels
    from inference.lora.block import LoraBlock
    from inference.lora.fold import Run
    from inference.model.architecture import Architecture
    from inference.model.loader import BaseWeights

_MAX_KNOWN_LAYOUTS = 16  # a rank, targets and a library make one; a stranger's headers push out no more


@dataclass(frozen=True, slots=True)
class Adapter:
    """A validated adapter in the engine's dtype."""

    digest: str
    blocks: Sequence[LoraBlock]  # each (layer, linear) is in one at most
    num_bytes: int
    peak: float  # the largest absolute value of any `expand`
    memory: Tensor | None = None  # all A and B; another adapter's as soon as the registry evicts this one

    @property
    def is_dora(self) -> bool:
        return any(block.gain is not None for block in self.blocks)


class AdapterLoader:
    """Loads adapters of one base model, on any thread. Those that differ in nothing but their numbers are
    laid out once: names, shapes and places of hundreds of tensors take as long to check as their numbers.
    """

    def __init__(
        self, base: BaseWeights, base_digest: str, max_rank: int, kernels: Kernels | None = None
    ) -> None:
        """`kernels` are of the CPU and of the base's dtype; None: plain torch."""
        self._kernels = PortableKernels() if kernels is None else kernels
        self._base = base
        self._base_digest = base_digest
        self._max_rank = max_rank
        self._num_linears = base.architecture.num_layers * len(PARENT_BY_LINEAR)
        self._read_memory = ReadMemory()
        self._known_runs = functools.lru_cache(_MAX_KNOWN_LAYOUTS)(self._find_runs)

    def load(
        self,
        folder: Path,
        expected_digest: str,
        max_bytes: int | None = None,
        spare: list[Tensor] | None = None,
    ) -> Adapter:
        """Read, verify against `expected_digest`, validate against the base model and convert to its dtype.

        A weights file larger than `max_bytes` is not read. `spare` is memory of adapters that nobody needs,
        which is taken or given back. Raises a subclass of `AdapterError` for whatever is wrong.
        """
        files = read_adapter_files(folder, max_bytes, self._read_memory)
        if files.digest != expected_digest:
            raise AdapterDigestMismatchError(str(folder), expected_digest, files.digest)
        header = header_of(files.weights, self._max_tensors)
        runs = self._known_runs(files.config, header, len(files.weights))
        memory = reserve((sum(run.size for run in runs),), self._base.dtype, spare)
        blocks, peak = fold(runs, files.weights, memory, self._base, self._kernels)
        return Adapter(expected_digest, blocks, sum(block.num_bytes for block in blocks), peak, memory)

    @property
    def _max_tensors(self) -> int:
        return self._num_linears * TENSORS_PER_LINEAR

    def _find_runs(self, config: bytes, header: bytes, file_size: int) -> Sequence[Run]:
        content = parse_object(config, MAX_CONFIG_DEPTH)
        asked = read_config(content, self._base_digest, max_patterns=self._num_linears)
        specs = read_header(header, file_size, self._max_tensors)
        return find_runs(group_by_linear(specs, asked, self._base.architecture, self._max_rank), asked)


def load_adapter(
    folder: Path,
    expected_digest: str,
    base: BaseWeights,
    base_digest: str,
    max_rank: int,
    max_bytes: int | None = None,
) -> Adapter:
    """A single one, as `AdapterLoader.load` does it."""
    return AdapterLoader(base, base_digest, max_rank).load(folder, expected_digest, max_bytes)


def most_file_bytes(architecture: Architecture, max_rank: int) -> int:
    """Of a weights file with the largest rank and a magnitude on every linear layer, in 32 bits."""
    shapes = [architecture.linear_shape(linear) for linear in PARENT_BY_LINEAR]
    numbers = sum(max_rank * (width + height) + height for width, height in shapes)
    num_tensors = architecture.num_layers * len(shapes) * TENSORS_PER_LINEAR
    return LENGTH_BYTES + max_header_bytes(num_tensors) + 4 * architecture.num_layers * numbers
