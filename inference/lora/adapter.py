"""A PEFT adapter as the engine uses it: validated, in the engine's dtype, all constants folded in.

An adapter comes from a stranger. Nothing of it is executed, every byte that is used was hashed first, and all
that this engine cannot serve exactly is refused by an error that names the place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from inference.errors import AdapterDigestMismatchError, AdapterNotFiniteError
from inference.lora.config import read_config
from inference.lora.files import read_adapter_files
from inference.lora.header import read_header
from inference.lora.tensors import TENSORS_PER_LINEAR, group_by_linear
from inference.model.architecture import PARENT_BY_LINEAR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from inference.lora.tensors import LinearSpecs
    from inference.model.loader import BaseWeights

_NORM_ROWS = 1024  # of the base weight that are in fp32 at once


@dataclass(frozen=True, slots=True)
class OutputGain:
    """What DoRA does to a linear layer's output y, delta and bias included: `factor * y + offset`, in fp32.

    `offset` is `(1 - factor) * bias`, which leaves the bias as it was; None without a bias.
    """

    factor: Tensor  # [out_features]
    offset: Tensor | None  # [out_features]

    @property
    def num_bytes(self) -> int:
        return self.factor.nbytes + (0 if self.offset is None else self.offset.nbytes)


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One linear layer's delta: `states @ shrink.T @ expand`, the scaling folded into `expand`."""

    shrink: Tensor  # [rank, in_features]
    expand: Tensor  # [rank, out_features]
    gain: OutputGain | None = None

    @property
    def rank(self) -> int:
        return len(self.shrink)

    @property
    def num_bytes(self) -> int:
        return self.shrink.nbytes + self.expand.nbytes + (0 if self.gain is None else self.gain.num_bytes)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A validated adapter in the engine's dtype."""

    digest: str
    pairs: Mapping[tuple[int, str], LoraPair]  # by (layer, linear such as "q_proj")
    num_bytes: int
    peak: float  # the largest absolute value of any `expand`

    @property
    def is_dora(self) -> bool:
        return any(pair.gain is not None for pair in self.pairs.values())


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
    pairs: dict[tuple[int, str], LoraPair] = {}
    peak = 0.0
    for (layer, linear), specs in group_by_linear(header, config, base.architecture, max_rank).items():
        pair = _fold(specs, files.weights, config.scaling(specs.module), base.dtype)
        peak = max(peak, _checked_peak(specs.module, pair))
        if specs.magnitude is not None:
            magnitude = specs.magnitude.read(files.weights).float()
            weight, bias = base.linear(layer, linear), base.linear_bias(layer, linear)
            pair = replace(pair, gain=_gain(specs.module, pair, magnitude, weight, bias))
        pairs[layer, linear] = pair
    return Adapter(expected_digest, pairs, sum(pair.num_bytes for pair in pairs.values()), peak)


def _fold(specs: LinearSpecs, weights: bytearray, scaling: float, dtype: torch.dtype) -> LoraPair:
    expand = specs.up.read(weights).float().T * scaling
    return LoraPair(specs.down.read(weights).to(dtype), expand.to(dtype).contiguous())


def _checked_peak(module: str, pair: LoraPair) -> float:
    """Largest absolute value of `expand`. Taken after conversion: scaling or a narrower type can overflow
    what was finite in the file.
    """
    shrink, expand = float(pair.shrink.abs().amax()), float(pair.expand.abs().amax())
    if not math.isfinite(shrink) or not math.isfinite(expand):
        raise AdapterNotFiniteError(module, "it holds NaN or infinity, or overflows the engine's dtype")
    return expand


def _gain(module: str, pair: LoraPair, magnitude: Tensor, weight: Tensor, bias: Tensor | None) -> OutputGain:
    """PEFT's DoRA (https://arxiv.org/abs/2402.09353, section 4.3): each row of the adapted weight
    `W + scaling * B A` is brought to the length that `magnitude` [out_features] says. W, A and B are taken as
    they are served, so that the lengths are right in the engine's dtype too.
    """
    shrink, expand = pair.shrink.float(), pair.expand.float().T
    norms = []
    for start in range(0, len(expand), _NORM_ROWS):
        rows = slice(start, start + _NORM_ROWS)
        adapted = torch.addmm(weight[rows].float(), expand[rows], shrink)
        norms.append(torch.linalg.vector_norm(adapted, dim=1))
    factor = magnitude / torch.cat(norms)
    offset = None if bias is None else (1.0 - factor) * bias.float()
    if not torch.isfinite(factor if offset is None else factor + offset).all():
        raise AdapterNotFiniteError(module, "its magnitude, or a row of length zero, gives NaN or infinity")
    return OutputGain(factor, offset)
