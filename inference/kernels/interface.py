"""Interface of the decoder's kernels, and the tensors that they exchange."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

    from inference.kernels.int8 import Int8Weight


class HeadNorms(NamedTuple):
    """Weights [head_dim] that normalise each head's queries and keys before rotation (Qwen3)."""

    query: Tensor
    key: Tensor
    epsilon: float


@dataclass(frozen=True)
class Rotation:
    """Positions of a step's tokens, and the rotary table, [max_context, rotary_dim] in fp32. The features of
    a head after the first `rotary_dim` are not rotated.
    """

    cosine: Tensor
    sine: Tensor
    positions: Tensor  # [num_tokens]
    dtype: torch.dtype

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each token, [num_tokens, 1, rotary_dim] in the model's dtype: one row for all
        heads.
        """
        cosine, sine = self.cosine[self.positions], self.sine[self.positions]
        return cosine.to(self.dtype).unsqueeze(1), sine.to(self.dtype).unsqueeze(1)


NULL_BLOCK = 0
"""A block of the KV cache that is never allocated: it pads block tables and stays zero."""


class Pages(NamedTuple):
    """One layer of the KV cache. Keys are stored transposed, so that both products of attention run along the
    last axis.
    """

    keys: Tensor  # [num_blocks, num_kv_heads, head_dim, block_size]
    values: Tensor  # [num_blocks, num_kv_heads, block_size, head_dim]


@dataclass(frozen=True, slots=True)
class SequenceSpan:
    """One sequence of a step. Its queries are tokens [start, start + num_queries) of the batch. Its context
    are the first `context_len` positions of `block_table`; the last of them are the queries' own positions.
    """

    start: int
    num_queries: int
    context_len: int
    block_table: Sequence[int]


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, end) use the adapter in `slot`, whose weights are `rows` of the arena."""

    start: int
    end: int
    slot: int
    rows: slice


@dataclass(frozen=True, slots=True, eq=False)
class LoraTarget:
    """The arena of one linear layer, and the columns of its delta in the fused projection's output."""

    shrink: Tensor  # [num_rows, in]
    expand: Tensor  # [num_rows, out]
    columns: slice
    scales: Tensor | None = None  # [num_rows] fp32, of an arena in int8: of the product of a row of both

    def factors(self, rows: slice) -> tuple[Tensor, Tensor]:
        """`shrink` and `expand` of `rows`, dequantised in fp32 if the arena is in int8."""
        shrink, expand = self.shrink[rows], self.expand[rows]
        if self.scales is None:
            return shrink, expand
        return shrink.float(), expand * self.scales[rows].unsqueeze(1)


class Projection(Protocol):
    """A linear layer or several fused ones, in any storage format of the weight."""

    def __call__(self, states: Tensor) -> Tensor:
        """[num_tokens, out] for `states` [num_tokens, in]; a new tensor, which the caller may overwrite."""


class LoraBatch(Protocol):
    """The adapters of one step, prepared once and used by every layer."""

    def project(self, linear: Projection, states: Tensor, targets: Sequence[LoraTarget]) -> Tensor:
        """`linear` of `states` [num_tokens, in] plus the delta of each target, [num_tokens, out]."""


class AttentionBatch(Protocol):
    """The sequences of one step, prepared once and used by every layer."""

    def attend(self, queries: Tensor, pages: Pages, scale: float, window: int = 0) -> Tensor:
        """Causal attention [num_tokens, num_heads * head_dim] of `queries` [num_tokens, num_heads, head_dim]:
        softmax(scale * q k) v. A token attends to `window` positions, its own included; 0: to all before it.
        """


@dataclass(frozen=True, slots=True)
class StepLayer:
    """One layer of a decoder with a gated MLP; see `inference.model.decoder`."""

    attention_norm: Tensor
    qkv: Projection
    head_norms: HeadNorms | None
    rotation: RotaryTables
    is_rotated: bool  # else the tables have one row, for every position
    pages: Pages
    window: int
    o: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


class RotaryTables(NamedTuple):
    """Cosines and sines by position, [max_context, rotary_dim] in fp32."""

    cosine: Tensor
    sine: Tensor


@dataclass(frozen=True, slots=True)
class StepModel:
    """All layers of a decoder, and what they share."""

    layers: Sequence[StepLayer]
    final_norm: Tensor
    epsilon: float
    attention_scale: float


class StepDeltas(NamedTuple):
    """The adapters of a step whose outputs are not scaled: the targets by layer and fused projection."""

    batch: LoraBatch
    targets: Mapping[tuple[int, str], tuple[LoraTarget, ...]]


class CompiledStep(Protocol):
    """All layers of a decoder in one call, with the bits of the single kernels."""

    def run(
        self,
        hidden: Tensor,
        positions: Tensor,
        kv_slots: Tensor,
        attention: AttentionBatch,
        deltas: StepDeltas | None,
    ) -> Tensor:
        """States after the final norm, [num_tokens, hidden], from embeddings `hidden` of this shape, which
        are overwritten. The other arguments are as in `inference.model.decoder.DecoderInput`.
        """


class Kernels(Protocol):
    """The decoder's operations. All tensors are contiguous and in the model's dtype unless said otherwise."""

    @property
    def fixed_rows(self) -> int:
        """The part of a step's time that does not depend on its tokens, mostly that of reading the weights,
        in rows: a step of R rows takes a time of this number + R.
        """

    def projection(self, weight: Tensor, bias: Tensor | None) -> Projection | None:
        """The product with `weight` [out, in], with `bias` [out] added before rounding; None where torch's
        product is faster. A token's bits depend neither on the number of tokens nor on its row.
        """

    def int8_projection(self, weight: Int8Weight, bias: Tensor | None) -> Projection:
        """The product with a weight in 8 bits, as `inference.kernels.int8.Int8Linear` defines it."""

    def add_rms_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """Add `delta` to `hidden` [num_tokens, width] in place; return the normalised sum as a new tensor."""

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up, [num_tokens, width], from `gate_up` [num_tokens, 2 * width]: gate, then up."""

    def gelu_gate(self, gate_up: Tensor) -> Tensor:
        """The same with GELU in its tanh approximation (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

    def rotate_and_store(
        self, qkv: Tensor, norms: HeadNorms | None, rotation: Rotation, kv_slots: Tensor, pages: Pages
    ) -> Tensor:
        """Return the rotated queries [num_tokens, num_heads, head_dim]. Write rotated keys, and values, to
        `kv_slots` [num_tokens] (block * block_size + offset) of `pages`.
        """

    def attention_batch(self, spans: Sequence[SequenceSpan]) -> AttentionBatch:
        """`spans` cover the tokens of a step."""

    def argmax(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The largest value of each row of `rows` [n, width] and its first index, both [n]. Where a row holds
        NaN the value is NaN and the index has no meaning. `rows` may also be fp32.
        """

    def top_probabilities(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` largest values of the softmax of each row of `logits` [n, width], and their indices,
        both [n, min(count, width)]: in descending order, equal logits in order of their index.

        The values are fp32. Where a row holds NaN or plus infinity, or only minus infinity, they are NaN. The
        index of a value of zero has no meaning, nor that of NaN, but each is below width. The rows may be
        strided, or fp32.
        """

    def sum_rows(self, weights: Tensor, indices: Tensor, table: Tensor) -> Tensor:
        """Sums [n, width] fp32 of rows of `table` [num_rows, width]: of those at `indices` [n, count], which
        must be valid, multiplied by `weights` [n, count] fp32.
        """

    def compile_step(self, model: StepModel) -> CompiledStep | None:
        """None where the single kernels compute the step."""

    def lora_batch(self, segments: Sequence[Segment], num_tokens: int) -> LoraBatch:
        """`segments` are disjoint, in order, and within `num_tokens`."""
