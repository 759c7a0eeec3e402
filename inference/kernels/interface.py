"""What the decoder asks of its kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from inference.lora.fold import Run
    from inference.lora.segments import Segment


class HeadNorms(NamedTuple):
    """Weights [head_dim] that normalise each head's queries and keys before they are rotated (Qwen3)."""

    query: Tensor
    key: Tensor
    epsilon: float


@dataclass(frozen=True)
class Rotation:
    """Where the tokens of a step stand, and the rotary table, [max_context, head_dim] in fp32."""

    cosine: Tensor
    sine: Tensor
    positions: Tensor  # [num_tokens]
    dtype: torch.dtype

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each token, [num_tokens, 1, head_dim] in the model's dtype: one row for all
        heads.
        """
        cosine, sine = self.cosine[self.positions], self.sine[self.positions]
        return cosine.to(self.dtype).unsqueeze(1), sine.to(self.dtype).unsqueeze(1)


class Pages(NamedTuple):
    """One layer of the KV cache. Keys lie across, so that both of attention's products run along the last
    axis.
    """

    keys: Tensor  # [num_blocks, num_kv_heads, head_dim, block_size]
    values: Tensor  # [num_blocks, num_kv_heads, block_size, head_dim]


@dataclass(frozen=True, slots=True)
class Singles:
    """Tokens that are attended to one at a time: those of decodes, and of prompts over short contexts."""

    tokens: Tensor  # [n] rows of the batch
    contexts: Tensor  # [n] positions to attend to, the token's own included
    block_tables: Tensor  # [num_sequences, longest]
    sequences: Tensor  # [n] rows of `block_tables`


@dataclass(frozen=True, slots=True, eq=False)
class LoraPart:
    """The arena of one linear layer, and where its delta goes in the fused projection's output."""

    shrink: Tensor  # [num_rows, in]
    expand: Tensor  # [num_rows, out]
    columns: slice


class Projection(Protocol):
    """A linear layer or several fused ones, however the weight is stored."""

    def __call__(self, states: Tensor) -> Tensor:
        """[num_tokens, out] for `states` [num_tokens, in]; a new tensor, which others may change in place."""


class LoraBatch(Protocol):
    """The adapters of one step, made ready once and used by every layer."""

    def project(self, linear: Projection, states: Tensor, parts: Sequence[LoraPart]) -> Tensor:
        """`linear` of `states` [num_tokens, in] with each part's delta added, [num_tokens, out]."""


class Kernels(Protocol):
    """All tensors are contiguous and of the model's dtype unless said otherwise."""

    reads_pages: bool  # whether `token_attention` is faster than gathering short contexts for SDPA

    def projection(self, weight: Tensor, bias: Tensor | None) -> Projection | None:
        """The product with `weight` [out, in], with `bias` [out] added before it is rounded; None where that
        of torch is faster. A token's bits depend neither on how many others there are nor on its place.
        """

    def add_rms_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """Add `delta` to `hidden` [num_tokens, width] in place; the sum, normalised, as a new tensor."""

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up, [num_tokens, width], from both side by side, [num_tokens, 2 * width]."""

    def rotate_and_store(
        self, qkv: Tensor, norms: HeadNorms | None, rotation: Rotation, kv_slots: Tensor, pages: Pages
    ) -> Tensor:
        """Rotated queries [num_tokens, num_heads, head_dim]. Rotated keys, and values, go to `kv_slots`
        [num_tokens] (block * block_size + offset) of `pages`.
        """

    def token_attention(self, queries: Tensor, pages: Pages, singles: Singles, output: Tensor) -> None:
        """Write the rows `singles.tokens` of `output`, which is shaped as `queries` [num_tokens, num_heads,
        head_dim].
        """

    def argmax(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The largest value of each row of `rows` [n, width], [n], NaN where there is one; and the first
        place of it, [n], which means nothing beside a NaN. `rows` may be fp32 whatever the model's dtype.
        """

    def lora_batch(self, segments: Sequence[Segment], num_tokens: int) -> LoraBatch:
        """`segments` are disjoint, in order, and within `num_tokens`."""

    def take_factors(
        self, weights: memoryview, run: Run, shrink: Tensor, expand: Tensor
    ) -> tuple[float, float]:
        """From an adapter's file to memory, on the CPU: each layer's A into `shrink` [num_layers, rank, in],
        and B, scaled in fp32, into `expand` [num_layers, rank, out]; rounded once. The largest absolute value
        of either, as it is there now: NaN where one is.
        """
