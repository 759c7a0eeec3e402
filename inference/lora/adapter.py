"""A PEFT adapter as the engine uses it: validated, in the engine's dtype, all constants folded in.

An adapter comes from a stranger. Nothing of it is executed, every byte that is used was hashed first, and all
that this engine cannot serve exactly is refused by an error that names the place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.errors import AdapterDigestMismatchError
from inference.lora.config import read_config
from inference.lora.files import read_adapter_files
from inference.lora.fold import find_runs, fold
from inference.lora.header import read_header
from inference.lora.tensors import TENSORS_PER_LINEAR, group_by_linear
from inference.model.architecture import PARENT_BY_LINEAR

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.lora.block import LoraBlock
    from inference.model.loader import BaseWeights


@dataclass(frozen=True, slots=True)
class Adapter:
    """A validated adapter in the engine's dtype."""

    digest: str
    blocks: Sequence[LoraBlock]  # each (layer, linear) is in one at most
    num_bytes: int
    peak: float  # the largest absolute value of any `expand`

    @property
    def is_dora(self) -> bool:
        return any(block.gain is not None for block in self.blocks)


def load_adapter(
    folder: Path,
    expected_digest: str,
    base: BaseWeights,
    base_digest: str,
    max_rank: int,
    max_bytes: int | None = None,
) -> Adapter:
    """Read, verify against `expected_digest`, validate against the base model and convert to its dtype.

    A weights file larger than `max_bytes` is not read. Raises a subclass of `AdapterError` for whatever is
    wrong.
    """
    files = read_adapter_files(folder, max_bytes)
    if files.digest != expected_digest:
        raise AdapterDigestMismatchError(str(folder), expected_digest, files.digest)
    num_linears = base.architecture.num_layers * len(PARENT_BY_LINEAR)
    config = read_config(files.config, base_digest, max_patterns=num_linears)
    header = read_header(files.weights, max_tensors=num_linears * TENSORS_PER_LINEAR)
    runs = find_runs(group_by_linear(header, config, base.architecture, max_rank), config)
    blocks, peak = fold(runs, files.weights, base)
    return Adapter(expected_digest, blocks, sum(block.num_bytes for block in blocks), peak)
