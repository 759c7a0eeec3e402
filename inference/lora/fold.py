"""From the tensors of a file to blocks in the engine's dtype, with scaling and DoRA's magnitude folded in.

A block is converted at once: one by one, hundreds of small matrices take longer than their numbers do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from inference.errors import AdapterNotFiniteError
from inference.lora.block import LoraBlock, OutputGain, reserve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from inference.kernels.interface import Kernels
    from inference.lora.config import AdapterConfig
    from inference.lora.tensors import LinearSpecs
    from inference.model.loader import BaseWeights

_NORM_ROWS = 1024  # of the base weight that are in fp32 at once


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Neighbouring layers of one linear, one rank and one scaling: what becomes a block."""

    specs: Sequence[LinearSpecs]
    scaling: float

    @property
    def shrink_shape(self) -> tuple[int, ...]:
        return len(self.specs), *self.specs[0].down.shape

    @property
    def expand_shape(self) -> tuple[int, ...]:
        return len(self.specs), *reversed(self.specs[0].up.shape)

    @property
    def size(self) -> int:
        """How many numbers A and B are in all layers."""
        return math.prod(self.shrink_shape) + math.prod(self.expand_shape)

    def block(self, shrink: Tensor, expand: Tensor) -> LoraBlock:
        first = self.specs[0]
        return LoraBlock(first.linear, range(first.layer, first.layer + len(self.specs)), shrink, expand)


def find_runs(linears: Iterable[LinearSpecs], config: AdapterConfig) -> list[Run]:
    """Raises `AdapterConfigError` if a scaling is no number."""
    runs: list[tuple[list[LinearSpecs], float]] = []
    for specs in sorted(linears, key=lambda specs: (specs.linear, specs.layer)):
        scaling = config.scaling(specs.module)
        if runs and runs[-1][1] == scaling and runs[-1][0][-1].is_followed_by(specs):
            runs[-1][0].append(specs)
        else:
            runs.append(([specs], scaling))
    return [Run(specs, scaling) for specs, scaling in runs]


def fold(
    runs: Sequence[Run],
    weights: memoryview,
    memory: Tensor,
    base: BaseWeights,
    kernels: Kernels,
) -> tuple[list[LoraBlock], float]:
    """A block for each run, all in `memory` [sum of the runs' `size`], and the largest absolute value of any
    `expand`. `weights` is the whole file.

    Raises `AdapterNotFiniteError`.
    """
    blocks, peaks = [], []
    for run, own in zip(runs, torch.split(memory, [run.size for run in runs]), strict=True):
        shrink, expand = torch.split(own, [math.prod(run.shrink_shape), math.prod(run.expand_shape)])
        block = run.block(shrink.view(run.shrink_shape), expand.view(run.expand_shape))
        # Taken after conversion: scaling or a narrower type can overflow what was finite in the file.
        peaks.append(kernels.take_factors(weights, run, block.shrink, block.expand))
        blocks.append(block)
    if not all(math.isfinite(peak) for pair in peaks for peak in pair):
        raise _not_finite(runs, blocks)
    gained = [
        replace(block, gain=_gain(run, block, weights, base)) for run, block in zip(runs, blocks, strict=True)
    ]
    return gained, max(expand for _, expand in peaks)


def _not_finite(runs: Sequence[Run], blocks: Sequence[LoraBlock]) -> AdapterNotFiniteError:
    """Names the first module at fault."""
    faults = [
        (specs.layer, specs.module)
        for run, block in zip(runs, blocks, strict=True)
        for specs, shrink, expand in zip(run.specs, block.shrink, block.expand, strict=True)
        if not (shrink.isfinite().all() and expand.isfinite().all())
    ]
    _, module = min(faults)
    return AdapterNotFiniteError(module, "it holds NaN or infinity, or overflows the engine's dtype")


def _gain(run: Run, block: LoraBlock, weights: memoryview, base: BaseWeights) -> OutputGain | None:
    """None unless it is DoRA."""
    magnitudes = [specs.magnitude for specs in run.specs if specs.magnitude is not None]
    if not magnitudes:
        return None
    read = (magnitude.read(weights).float() for magnitude in magnitudes)
    layers = zip(run.specs, block.shrink, block.expand, read, strict=True)
    gains = [_layer_gain(*layer, base) for layer in layers]
    # A layer without a bias among others that have one keeps what it has.
    offsets = [torch.zeros_like(gain.factor) if gain.offset is None else gain.offset for gain in gains]
    has_bias = any(gain.offset is not None for gain in gains)
    return OutputGain(_kept([gain.factor for gain in gains]), _kept(offsets) if has_bias else None)


def _kept(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(rows), out=reserve((len(rows), *rows[0].shape), rows[0].dtype))


def _layer_gain(
    specs: LinearSpecs, shrink: Tensor, expand: Tensor, magnitude: Tensor, base: BaseWeights
) -> OutputGain:
    """PEFT's DoRA (https://arxiv.org/abs/2402.09353, section 4.3): each row of the adapted weight
    `W + scaling * B A` is brought to the length that `magnitude` [out_features] says. W, A and B are taken as
    they are served, so that the lengths are right in the engine's dtype too.
    """
    weight, bias = base.linear(specs.layer, specs.linear), base.linear_bias(specs.layer, specs.linear)
    down, up = shrink.float(), expand.float().T
    norms = []
    for start in range(0, len(up), _NORM_ROWS):
        rows = slice(start, start + _NORM_ROWS)
        adapted = torch.addmm(weight[rows].float(), up[rows], down)
        norms.append(torch.linalg.vector_norm(adapted, dim=1))
    factor = magnitude / torch.cat(norms)
    offset = None if bias is None else (1.0 - factor) * bias.float()
    if not torch.isfinite(factor if offset is None else factor + offset).all():
        reason = "its magnitude, or a row of length zero, gives NaN or infinity"
        raise AdapterNotFiniteError(specs.module, reason)
    return OutputGain(factor, offset)
