"""Converts a file's tensors to blocks in the engine's format, with scaling and DoRA's magnitude folded in.

A block is converted in one call: for hundreds of small matrices, the calls would take longer than the
conversion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from inference.errors import AdapterNotFiniteError
from inference.kernels.factors import StoredFactors
from inference.kernels.int8 import quantize_rows
from inference.lora.block import DoraScale, LoraBlock, reserve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from inference.kernels.factors import FactorReader
    from inference.lora.config import AdapterConfig
    from inference.lora.tensors import LinearSpecs
    from inference.model.loader import BaseWeights

_NORM_ROWS = 1024  # rows of the base weight that are in fp32 at a time


@dataclass(frozen=True, slots=True, eq=False)
class BlockSpec:
    """The stored tensors of one block: neighbouring layers of one linear, with one rank and one scaling."""

    specs: Sequence[LinearSpecs]
    factors: StoredFactors

    @classmethod
    def of(cls, specs: Sequence[LinearSpecs], scaling: float) -> BlockSpec:
        return cls(specs, StoredFactors([each.down for each in specs], [each.up for each in specs], scaling))

    @property
    def shrink_shape(self) -> tuple[int, ...]:
        return len(self.specs), *self.specs[0].down.shape

    @property
    def expand_shape(self) -> tuple[int, ...]:
        return len(self.specs), *reversed(self.specs[0].up.shape)

    @property
    def size(self) -> int:
        """Number of elements of A and B over all layers."""
        return math.prod(self.shrink_shape) + math.prod(self.expand_shape)

    def block(self, memory: Tensor, scales: Tensor | None = None) -> LoraBlock:
        """A block whose A and B are in `memory` [size]."""
        shrink, expand = torch.split(memory, [math.prod(self.shrink_shape), math.prod(self.expand_shape)])
        first = self.specs[0]
        layers = range(first.layer, first.layer + len(self.specs))
        factors = shrink.view(self.shrink_shape), expand.view(self.expand_shape)
        return LoraBlock(first.linear, layers, *factors, scales)


def group_blocks(linears: Iterable[LinearSpecs], config: AdapterConfig) -> list[BlockSpec]:
    """Raises `AdapterConfigError` if a scaling is no number."""
    groups: list[tuple[list[LinearSpecs], float]] = []
    for specs in sorted(linears, key=lambda specs: (specs.linear, specs.layer)):
        scaling = config.scaling(specs.module)
        if groups and groups[-1][1] == scaling and groups[-1][0][-1].is_followed_by(specs):
            groups[-1][0].append(specs)
        else:
            groups.append(([specs], scaling))
    return [BlockSpec.of(specs, scaling) for specs, scaling in groups]


def read_blocks(
    block_specs: Sequence[BlockSpec], weights: memoryview, memory: Tensor, reader: FactorReader
) -> tuple[list[LoraBlock], float]:
    """Convert each of `block_specs` into `memory` [sum of their `size`], without DoRA's magnitude. `weights`
    is the whole file.

    Returns the blocks and the largest absolute value of any `expand`. Raises `AdapterNotFiniteError`.
    """
    blocks = [spec.block(chunk) for spec, chunk in _chunks(block_specs, memory)]
    # Measured after conversion: scaling or a narrower type can overflow what was finite in the file.
    peaks = [
        reader.read_factors(weights, spec.factors, block.shrink, block.expand)
        for spec, block in zip(block_specs, blocks, strict=True)
    ]
    if not all(math.isfinite(peak) for pair in peaks for peak in pair):
        raise _not_finite(block_specs, blocks)
    return blocks, max(expand for _, expand in peaks)


def quantize_blocks(
    block_specs: Sequence[BlockSpec], blocks: Sequence[LoraBlock], memory: Tensor
) -> tuple[list[LoraBlock], float]:
    """The blocks in int8, in `memory` [sum of `size`]: each row of A and of B has the scale of
    `inference.kernels.int8.quantize_rows`, and the block has the product of both.

    Returns the blocks and the largest of their scales. Raises `AdapterNotFiniteError`.
    """
    quantized, peaks = [], []
    for (spec, chunk), block in zip(_chunks(block_specs, memory), blocks, strict=True):
        scales = reserve(block.shrink.shape[:2], torch.float32).fill_(1.0)
        one = spec.block(chunk, scales)
        for source, target in ((block.shrink, one.shrink), (block.expand, one.expand)):
            values, factors = quantize_rows(source.flatten(0, 1).float())
            target.copy_(values.view_as(target))
            scales *= factors.view_as(scales)
        quantized.append(one)
        peaks.append(float(scales.max()))
    # The product of two scales can overflow fp32 where both are finite.
    if not all(map(math.isfinite, peaks)):
        raise _not_finite(block_specs, quantized)
    return quantized, max(peaks)


def add_dora_scales(
    block_specs: Sequence[BlockSpec], blocks: Sequence[LoraBlock], weights: memoryview, base: BaseWeights
) -> list[LoraBlock]:
    """The blocks with DoRA's scales of their outputs. Raises `AdapterNotFiniteError`."""
    return [
        replace(block, dora=_dora_scale(spec, block, weights, base))
        for spec, block in zip(block_specs, blocks, strict=True)
    ]


def _chunks(block_specs: Sequence[BlockSpec], memory: Tensor) -> Iterator[tuple[BlockSpec, Tensor]]:
    return zip(block_specs, torch.split(memory, [each.size for each in block_specs]), strict=True)


def _not_finite(block_specs: Sequence[BlockSpec], blocks: Sequence[LoraBlock]) -> AdapterNotFiniteError:
    """Names the first module at fault."""
    faults = [
        (specs.layer, specs.module)
        for spec, block in zip(block_specs, blocks, strict=True)
        for index, specs in enumerate(spec.specs)
        if not all(factor.isfinite().all() for factor in block.factors(index))
    ]
    _, module = min(faults)
    return AdapterNotFiniteError(module, "it holds NaN or infinity, or overflows the engine's dtype")


def _dora_scale(
    spec: BlockSpec, block: LoraBlock, weights: memoryview, base: BaseWeights
) -> DoraScale | None:
    """None for an adapter without DoRA."""
    magnitudes = [specs.magnitude for specs in spec.specs if specs.magnitude is not None]
    if not magnitudes:
        return None
    read = (magnitude.read(weights).float() for magnitude in magnitudes)
    scales = [
        _layer_scale(specs, *block.factors(index), magnitude, base)
        for index, (specs, magnitude) in enumerate(zip(spec.specs, read, strict=True))
    ]
    # If only some layers have a bias, the others get an offset of zero.
    offsets = [torch.zeros_like(scale.factor) if scale.offset is None else scale.offset for scale in scales]
    has_bias = any(scale.offset is not None for scale in scales)
    return DoraScale(_stack([scale.factor for scale in scales]), _stack(offsets) if has_bias else None)


def _stack(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(rows), out=reserve((len(rows), *rows[0].shape), rows[0].dtype))


def _layer_scale(
    specs: LinearSpecs, shrink: Tensor, expand: Tensor, magnitude: Tensor, base: BaseWeights
) -> DoraScale:
    """PEFT's DoRA (https://arxiv.org/abs/2402.09353, section 4.3): scales each row of the adapted weight `W
    + scaling * B A` to the length in `magnitude` [out_features]. The lengths are those of W, A and B as the
    engine serves them.
    """
    weight, bias = base.linear(specs.layer, specs.linear), base.linear_bias(specs.layer, specs.linear)
    up = expand.T
    norms = []
    for start in range(0, len(up), _NORM_ROWS):
        rows = slice(start, start + _NORM_ROWS)
        adapted = torch.addmm(weight[rows].float(), up[rows], shrink)
        norms.append(torch.linalg.vector_norm(adapted, dim=1))
    factor = magnitude / torch.cat(norms)
    offset = None if bias is None else (1.0 - factor) * bias.float()
    if not torch.isfinite(factor if offset is None else factor + offset).all():
        reason = "its DoRA magnitude, or a row of length zero, gives NaN or infinity"
        raise AdapterNotFiniteError(specs.module, reason)
    return DoraScale(factor, offset)
