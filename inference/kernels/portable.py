"""The kernels in plain torch, for any device and dtype; the reference for all others."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from inference.kernels.grouped_attention import GroupedAttention
from inference.kernels.int8 import Int8Linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.kernels.int8 import Int8Weight
    from inference.kernels.interface import (
        AttentionBatch,
        CompiledStep,
        HeadNorms,
        LoraBatch,
        LoraTarget,
        Pages,
        Projection,
        Rotation,
        Segment,
        SequenceSpan,
        StepModel,
    )

_MAX_STACKED_TOKENS = 64
_FIXED_ROWS = 12
_BLOCK = 256


class PortableKernels:
    """See `inference.kernels.interface.Kernels`."""

    @property
    def fixed_rows(self) -> int:
        return _FIXED_ROWS

    def projection(self, weight: Tensor, bias: Tensor | None) -> Projection | None:  # noqa: ARG002  # of the interface
        return None

    def int8_projection(self, weight: Int8Weight, bias: Tensor | None) -> Projection:
        return Int8Linear(weight, bias)

    def add_rms_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        if delta is not None:
            hidden += delta
        return functional.rms_norm(hidden, weight.shape, weight, epsilon)

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up

    def gelu_gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.gelu(gate, approximate="tanh") * up

    def rotate_and_store(
        self, qkv: Tensor, norms: HeadNorms | None, rotation: Rotation, kv_slots: Tensor, pages: Pages
    ) -> Tensor:
        _, num_kv_heads, head_dim, block_size = pages.keys.shape
        heads = qkv.view(len(qkv), -1, head_dim)
        num_heads = heads.shape[1] - 2 * num_kv_heads
        queries, keys, values = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads], dim=1)
        if norms is not None:
            queries = functional.rms_norm(queries, (head_dim,), norms.query, norms.epsilon)
            keys = functional.rms_norm(keys, (head_dim,), norms.key, norms.epsilon)
        blocks, offsets = kv_slots // block_size, kv_slots % block_size
        pages.keys[blocks, :, :, offsets] = _rotate(keys, *rotation.rows)
        pages.values[blocks, :, offsets] = values
        return _rotate(queries, *rotation.rows)

    def attention_batch(self, spans: Sequence[SequenceSpan]) -> AttentionBatch:
        return GroupedAttention(spans)

    def argmax(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        best = rows.max(dim=-1)
        return best.values, best.indices

    def top_probabilities(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values, indices = _largest(logits, min(count, logits.shape[1]))
        # One row at a time, so that its fp32 copy stays in the CPU's cache.
        totals = torch.stack([row.float().logsumexp(dim=0) for row in logits]).unsqueeze(1)
        probabilities = (values.float() - totals).exp()
        return probabilities.masked_fill(~totals.isfinite(), math.nan), indices

    def sum_rows(self, weights: Tensor, indices: Tensor, table: Tensor) -> Tensor:
        return torch.bmm(weights.unsqueeze(1), functional.embedding(indices, table).float()).squeeze(1)

    def compile_step(self, model: StepModel) -> CompiledStep | None:  # noqa: ARG002  # of the interface
        return None

    def lora_batch(self, segments: Sequence[Segment], num_tokens: int) -> LoraBatch:
        if num_tokens <= _MAX_STACKED_TOKENS:
            return StackedLora(segments, num_tokens)
        return SegmentedLora(segments)


class AdditiveLora(ABC):
    """Adapters whose deltas are computed apart from the base model's product and then added to it."""

    def project(self, linear: Projection, states: Tensor, targets: Sequence[LoraTarget]) -> Tensor:
        output = linear(states)
        self.add(states, targets, output)
        return output

    @abstractmethod
    def add(self, states: Tensor, targets: Sequence[LoraTarget], output: Tensor) -> None:
        """Add each target's delta of `states` [num_tokens, in] to `output` [num_tokens, out], in place."""


class StackedLora(AdditiveLora):
    """All active adapters' rows in one product, the rows of other adapters masked out: for few tokens this is
    faster than gathering.
    """

    def __init__(self, segments: Sequence[Segment], num_tokens: int) -> None:
        self._segments = segments
        self._num_tokens = num_tokens
        self._rows = slice(min(s.rows.start for s in segments), max(s.rows.stop for s in segments))

    def add(self, states: Tensor, targets: Sequence[LoraTarget], output: Tensor) -> None:
        for target in targets:
            shrink, expand = (factor.to(states.dtype) for factor in target.factors(self._rows))
            shrunk = functional.linear(states, shrink)
            # Filled, not multiplied by 0: another adapter's overflow times zero would be NaN.
            shrunk.masked_fill_(self._mask.to(states.device), 0.0)
            output[:, target.columns].addmm_(shrunk, expand)

    @cached_property
    def _mask(self) -> Tensor:
        """[num_tokens, rows], True where the row belongs to another adapter than the token's."""
        start = self._rows.start
        mask = torch.ones(self._num_tokens, self._rows.stop - start, dtype=torch.bool)
        for segment in self._segments:
            rows = slice(segment.rows.start - start, segment.rows.stop - start)
            mask[segment.start : segment.end, rows] = False
        return mask


class SegmentedLora(AdditiveLora):
    """One product per segment: for many tokens."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments

    def add(self, states: Tensor, targets: Sequence[LoraTarget], output: Tensor) -> None:
        for target in targets:
            for segment in self._segments:
                tokens = slice(segment.start, segment.end)
                shrink, expand = (factor.to(states.dtype) for factor in target.factors(segment.rows))
                shrunk = functional.linear(states[tokens], shrink)
                output[tokens, target.columns].addmm_(shrunk, expand)


def _largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` elements of each row of `rows` [n, width] in descending order, equal ones in order of
    their index, and their indices.

    Searches the blocks with the largest maxima, which contain them, in a fraction of the time of sorting all.
    """
    width = rows.shape[1]
    padded = functional.pad(rows, (0, -width % _BLOCK), value=-math.inf)
    blocks = padded.view(len(rows), -1, _BLOCK)
    best = _sorted(blocks.amax(dim=2))[1][:, :count].sort(dim=1).values
    candidates = blocks.gather(1, best.unsqueeze(2).expand(-1, -1, _BLOCK)).flatten(1)
    values, places = (found[:, :count] for found in _sorted(candidates))
    indices = best.gather(1, places // _BLOCK) * _BLOCK + places % _BLOCK
    return values, indices.clamp_max(width - 1)


def _sorted(rows: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = rows.sort(dim=1, descending=True, stable=True)
    return values, indices


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the leading features of `states` [num_tokens, num_heads, head_dim] in Hugging Face's half-split
    layout, as many as `cosine` is wide.
    """
    rotated, kept = states.tensor_split([cosine.shape[-1]], dim=-1)
    first, second = rotated.chunk(2, dim=-1)
    return torch.cat((rotated * cosine + torch.cat((-second, first), dim=-1) * sine, kept), dim=-1)
