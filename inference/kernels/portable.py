"""The kernels in plain torch, for any device and dtype; what the others are compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.kernels.interface import (
        HeadNorms,
        LoraBatch,
        LoraPart,
        Pages,
        Projection,
        Rotation,
        Singles,
    )
    from inference.lora.fold import Run
    from inference.lora.segments import Segment

_MAX_STACKED_TOKENS = 64


class PortableKernels:
    """See `inference.kernels.interface.Kernels`."""

    reads_pages = False

    def projection(self, weight: Tensor, bias: Tensor | None) -> Projection | None:  # noqa: ARG002  # of the interface
        return None

    def add_rms_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        if delta is not None:
            hidden += delta
        return functional.rms_norm(hidden, weight.shape, weight, epsilon)

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up

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

    def token_attention(self, queries: Tensor, pages: Pages, singles: Singles, output: Tensor) -> None:
        tables = singles.block_tables[singles.sequences]
        of_tokens = zip(singles.tokens.tolist(), singles.contexts.tolist(), tables, strict=True)
        for token, context, table in of_tokens:
            keys, values = (heads[0, :, :context] for heads in gather(pages, table.unsqueeze(0)))
            rows = queries[token].view(len(keys), -1, queries.shape[-1])  # heads that share a KV head
            output[token] = functional.scaled_dot_product_attention(rows, keys, values).flatten(0, 1)

    def argmax(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        best = rows.max(dim=-1)
        return best.values, best.indices

    def lora_batch(self, segments: Sequence[Segment], num_tokens: int) -> LoraBatch:
        if num_tokens <= _MAX_STACKED_TOKENS:
            return StackedLora(segments, num_tokens)
        return SegmentedLora(segments)

    def take_factors(
        self, weights: memoryview, run: Run, shrink: Tensor, expand: Tensor
    ) -> tuple[float, float]:
        torch.stack([specs.down.read(weights) for specs in run.specs], out=shrink)
        ups = torch.stack([specs.up.read(weights) for specs in run.specs]).float().mul_(run.scaling)
        expand.copy_(ups.to(expand.dtype).transpose(1, 2))
        return _peak(shrink), _peak(expand)


class AddedLora(ABC):
    """Deltas that are added to the base model's output."""

    def project(self, linear: Projection, states: Tensor, parts: Sequence[LoraPart]) -> Tensor:
        output = linear(states)
        self.add(states, parts, output)
        return output

    @abstractmethod
    def add(self, states: Tensor, parts: Sequence[LoraPart], output: Tensor) -> None:
        """Add each part's delta of `states` [num_tokens, in] to `output` [num_tokens, out], in place."""


class StackedLora(AddedLora):
    """All active adapters' rows in one product, foreign rows masked out: for few tokens this beats any
    gathering.
    """

    def __init__(self, segments: Sequence[Segment], num_tokens: int) -> None:
        self._segments = segments
        self._num_tokens = num_tokens
        self._rows = slice(min(s.rows.start for s in segments), max(s.rows.stop for s in segments))

    def add(self, states: Tensor, parts: Sequence[LoraPart], output: Tensor) -> None:
        for part in parts:
            shrunk = functional.linear(states, part.shrink[self._rows])
            # Replaced, not multiplied: another adapter's overflow times zero would be NaN.
            shrunk.masked_fill_(self._foreign.to(states.device), 0.0)
            output[:, part.columns].addmm_(shrunk, part.expand[self._rows])

    @cached_property
    def _foreign(self) -> Tensor:
        """[num_tokens, rows], True where a row is not of the token's adapter."""
        start = self._rows.start
        foreign = torch.ones(self._num_tokens, self._rows.stop - start, dtype=torch.bool)
        for segment in self._segments:
            foreign[segment.start : segment.end, segment.rows.start - start : segment.rows.stop - start] = (
                False
            )
        return foreign


class SegmentedLora(AddedLora):
    """Run by run, each by its own rows: for many tokens."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments

    def add(self, states: Tensor, parts: Sequence[LoraPart], output: Tensor) -> None:
        for part in parts:
            for segment in self._segments:
                tokens = slice(segment.start, segment.end)
                shrunk = functional.linear(states[tokens], part.shrink[segment.rows])
                output[tokens, part.columns].addmm_(shrunk, part.expand[segment.rows])


def gather(pages: Pages, block_tables: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values behind `block_tables` [n, num_blocks]: each [n, num_kv_heads, context, head_dim]."""
    count, width = block_tables.shape
    chosen = block_tables.flatten()
    keys = pages.keys.index_select(0, chosen).view(count, width, *pages.keys.shape[1:])
    values = pages.values.index_select(0, chosen).view(count, width, *pages.values.shape[1:])
    return keys.permute(0, 2, 1, 4, 3).flatten(2, 3), values.transpose(1, 2).flatten(2, 3)


def _peak(numbers: Tensor) -> float:
    """Largest absolute value, NaN if there is one."""
    low, high = numbers.aminmax()
    return float(torch.maximum(-low, high))


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate `states` [num_tokens, num_heads, head_dim] in Hugging Face's half-split layout."""
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-second, first), dim=-1) * sine
