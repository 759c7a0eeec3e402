"""Loads PEFT adapters: validates them and converts them to the engine's format, with all constants folded in.

Adapters are untrusted input. No code in them is executed, every byte is hashed before it is used, and an
adapter that this engine cannot serve exactly is refused with an error that names the location.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.errors import AdapterDigestMismatchError
from inference.kernels.factors import PortableFactorReader
from inference.lora.block import reserve
from inference.lora.config import read_config
from inference.lora.files import MAX_CONFIG_DEPTH, ReadBuffer, read_adapter_files
from inference.lora.fold import add_dora_scales, group_blocks, quantize_blocks, read_blocks
from inference.lora.header import LENGTH_BYTES, extract_header, max_header_bytes, read_header
from inference.lora.strict_json import parse_object
from inference.lora.tensors import TENSORS_PER_LINEAR, group_by_linear
from inference.model.architecture import OUTER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from inference.kernels.factors import FactorReader
    from inference.lora.block import LoraBlock
    from inference.lora.config import AdapterConfig
    from inference.lora.fold import BlockSpec
    from inference.model.architecture import Architecture
    from inference.model.loader import BaseWeights

_MAX_CACHED_LAYOUTS = 16  # one per rank, targets and saving library; bounds what crafted headers can evict


@dataclass(frozen=True, slots=True)
class Adapter:
    """A validated adapter in the engine's dtype, or in int8."""

    digest: str
    blocks: Sequence[LoraBlock]  # each (layer, linear) is in one at most
    num_bytes: int
    peak: float  # the largest absolute value that a blend's weight multiplies: of `expand`, in int8 of scales
    memory: Tensor | None = None  # all A and B; reused for another adapter once the registry evicts this one
    invocation: tuple[int, ...] = ()  # tokens from which on it is active; empty: it is always active

    @property
    def rank(self) -> int:
        """The largest of any linear layer."""
        return max((block.rank for block in self.blocks), default=0)

    @property
    def is_dora(self) -> bool:
        return any(block.dora is not None for block in self.blocks)


class AdapterLoader:
    """Loads adapters of one base model, on any thread. Caches the parsed layout by configuration and header,
    because checking the names and shapes of hundreds of tensors takes as long as reading their numbers.
    """

    def __init__(
        self, base: BaseWeights, base_digest: str, max_rank: int, reader: FactorReader | None = None
    ) -> None:
        """`reader` writes the base's dtype; None stands for plain torch."""
        self._reader = PortableFactorReader() if reader is None else reader
        self._base = base
        self._base_digest = base_digest
        self._max_rank = max_rank
        self._num_linears = len(base.architecture.linear_keys) + len(OUTER)
        self._buffer = ReadBuffer()
        self._cached_block_specs = functools.lru_cache(_MAX_CACHED_LAYOUTS)(self._read_block_specs)

    def load(
        self,
        folder: Path,
        expected_digest: str,
        max_bytes: int | None = None,
        spare: list[Tensor] | None = None,
    ) -> Adapter:
        """Read, verify against `expected_digest`, validate against the base model and convert to its format.

        A weights file larger than `max_bytes` is not read. `spare` is the memory of evicted adapters, which
        is reused or freed. Raises a subclass of `AdapterError`.
        """
        files = read_adapter_files(folder, max_bytes, self._buffer)
        if files.digest != expected_digest:
            raise AdapterDigestMismatchError(str(folder), expected_digest, files.digest)
        header = extract_header(files.weights, self._max_tensors)
        config, specs = self._cached_block_specs(files.config, header, len(files.weights))
        size = (sum(spec.size for spec in specs),)
        is_int8 = self._base.adapter_dtype == torch.int8
        memory = reserve(size, self._base.dtype, None if is_int8 else spare)
        blocks, peak = read_blocks(specs, files.weights, memory, self._reader)
        if is_int8:
            memory = reserve(size, torch.int8, spare)
            blocks, peak = quantize_blocks(specs, blocks, memory)
        blocks = add_dora_scales(specs, blocks, files.weights, self._base)
        num_bytes = sum(block.num_bytes for block in blocks)
        return Adapter(expected_digest, blocks, num_bytes, peak, memory, config.invocation)

    @property
    def _max_tensors(self) -> int:
        return self._num_linears * TENSORS_PER_LINEAR

    def _read_block_specs(
        self, config: bytes, header: bytes, file_size: int
    ) -> tuple[AdapterConfig, Sequence[BlockSpec]]:
        content = parse_object(config, MAX_CONFIG_DEPTH)
        adapter_config = read_config(content, self._base_digest, max_patterns=self._num_linears)
        specs = read_header(header, file_size, self._max_tensors)
        linears = group_by_linear(specs, adapter_config, self._base.architecture, self._max_rank)
        return adapter_config, group_blocks(linears, adapter_config)


def load_adapter(
    folder: Path,
    expected_digest: str,
    base: BaseWeights,
    base_digest: str,
    max_rank: int,
    max_bytes: int | None = None,
) -> Adapter:
    """Load a single adapter; see `AdapterLoader.load`."""
    return AdapterLoader(base, base_digest, max_rank).load(folder, expected_digest, max_bytes)


def max_file_bytes(architecture: Architecture, max_rank: int) -> int:
    """Size of a weights file with rank `max_rank` and a DoRA magnitude on every linear layer, embeddings and
    head, in 32 bits.
    """
    linears = [*(linear for _, linear in architecture.linear_keys), *OUTER]
    shapes = [architecture.linear_shape(linear) for linear in linears]
    numbers = sum(max_rank * (width + height) + height for width, height in shapes)
    return LENGTH_BYTES + max_header_bytes(len(shapes) * TENSORS_PER_LINEAR) + 4 * numbers
