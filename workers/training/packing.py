"""Padding-free batches: the rows of a batch are concatenated into one sequence.

All layers except attention work on single tokens. Attention gets the lengths of the rows. So an optimizer
step has the same rows and the same loss as with the plain Trainer, without computing padding.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft.helpers import disable_input_dtype_casting
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from workers.training.rows import IGNORED, computed_positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from workers.training.preamble import Layer, PrefixCache
    from workers.training.rows import Example

ATTENTION = "rows"
MAX_BATCHED_LENGTH = 256
"""Tokens per row up to which attention is one batched product that stores all scores for the backward pass:
on a CPU it takes a third of the time of torch's fused kernel. Longer rows use the fused kernel, one by one.
"""


def collate(examples: Sequence[Example], preamble: Sequence[int] = ()) -> dict[str, Tensor]:
    """Build a batch: `input_ids`, `position_ids`, `labels`, each int64 [1, tokens]; `row_lengths` int64
    [rows]. Tokens of `preamble` after a row's first token are omitted.

    The head is as wide as the vocabulary, so it is computed for trained tokens only: `logits_to_keep` [kept]
    indexes the tokens that predict a trained one, `shift_labels` [1, kept] has the predicted ones. Nothing
    predicts a row's first token.
    """
    rows = [(example, computed_positions(example, preamble)) for example in examples]
    labels = torch.tensor([[e.labels[i] if i else IGNORED for e, own in rows for i in own]])
    kept = (labels[0, 1:] != IGNORED).nonzero().squeeze(1)
    return {
        "input_ids": torch.tensor([[e.token_ids[i] for e, own in rows for i in own]]),
        "position_ids": torch.tensor([[i for _, own in rows for i in own]]),
        "row_lengths": torch.tensor([len(own) for _, own in rows]),
        "labels": labels,
        "shift_labels": labels[:, 1:][:, kept],
        "logits_to_keep": kept,
    }


def row_indices(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(indices of the rows' tokens int64 [rows, longest], mask of real ones bool [rows, longest]).

    Shorter rows repeat their last token.
    """
    steps = torch.arange(int(lengths.max()), device=lengths.device)
    starts, lengths = (lengths.cumsum(0) - lengths).unsqueeze(1), lengths.unsqueeze(1)
    return starts + torch.minimum(steps, lengths - 1), steps < lengths


@contextmanager
def mixed_precision(model: Any) -> Iterator[None]:
    """Context of forward passes of a PEFT model: where the base is in bf16, the adapter's products are too;
    its weights stay in fp32. Do not use it around optimizer steps: autocast caches the rounded weights until
    it ends.
    """
    with (
        disable_input_dtype_casting(model, active=is_bf16(model)),
        torch.autocast(model.device.type, torch.bfloat16, enabled=is_bf16(model)),
    ):
        yield


def is_bf16(model: Any) -> bool:
    """Whether the frozen weights are in bf16."""
    return bool(model.get_input_embeddings().weight.dtype == torch.bfloat16)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: Tensor | None = None,
    prefixes: Sequence[PrefixCache] = (),
    record_into: list[Layer] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row. `query` [1, heads, tokens, size]; `key` and `value` may have fewer
    heads. Returns [1, tokens, heads, size]. Without `row_lengths` it is transformers' own attention.

    `prefixes` has the cached prefix of each layer. `record_into` collects the layers' keys and values.
    """
    if row_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)[0], None
    parts = query[0] * others["scaling"], key[0], value[0]
    if record_into is not None:
        record_into.append(parts[1:])
    prefix = prefixes[module.layer_idx] if prefixes else None
    longest = int(row_lengths.max()) + (prefix.keys.shape[1] if prefix else 0)
    dropout, window = others["dropout"], others.get("sliding_window")
    if longest <= min(MAX_BATCHED_LENGTH, window or MAX_BATCHED_LENGTH):
        return _batched_attention(*parts, row_lengths, prefix, dropout).unsqueeze(0), None
    by_row = zip(*(torch.split(part, row_lengths.tolist(), dim=1) for part in parts), strict=True)
    attended = [
        _row_attention(q, k, v, prefix.of_row(row) if prefix else None, dropout, window)
        for row, (q, k, v) in enumerate(by_row)
    ]
    return torch.cat(attended, dim=1).transpose(0, 1).unsqueeze(0), None


def _batched_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, prefix: PrefixCache | None, dropout: float
) -> Tensor:
    """[tokens, heads, size]. Query heads that share a key head are rows of one product."""
    indices, is_real = row_indices(lengths)
    num_rows, longest = indices.shape
    num_heads, num_keys = len(query), len(key)

    def by_row(part: Tensor) -> Tensor:
        selected = part.index_select(1, indices.flatten()).view(len(part), num_rows, longest, -1)
        return selected.transpose(0, 1)  # [rows, heads, longest, size]

    queries = by_row(query).reshape(num_rows, num_keys, -1, query.shape[-1])
    keys, values = by_row(key), by_row(value)
    hidden = torch.ones(longest, longest, dtype=torch.bool, device=query.device).triu(1)
    if prefix is not None:
        keys, values, hidden = prefix.prepend_to(keys, values, hidden)
    scores = (queries @ keys.transpose(2, 3)).view(num_rows, num_heads, longest, -1)
    weights = functional.dropout(scores.masked_fill(hidden, -torch.inf).softmax(-1), dropout)
    attended = weights.view(num_rows, num_keys, -1, keys.shape[2]) @ values
    attended = attended.view(num_rows, num_heads, longest, -1).transpose(1, 2).flatten(0, 1)
    return attended.index_select(0, is_real.flatten().nonzero().squeeze(1))


def _row_attention(
    query: Tensor, key: Tensor, value: Tensor, prefix: Layer | None, dropout: float, window: int | None
) -> Tensor:
    """One row: [heads, tokens, size]."""
    if prefix is not None:
        key, value = (
            torch.cat([own[:, :1], cached, own[:, 1:]], dim=1)
            for own, cached in zip((key, value), prefix, strict=True)
        )
    length, mask = key.shape[1], None
    if length > query.shape[1] or (window is not None and length > window):
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        seen = seen.triu(1 - (window or length))
        mask = torch.cat([seen[:1], seen[length - query.shape[1] + 1 :]])
    attended = functional.scaled_dot_product_attention(
        query.unsqueeze(0),
        key.unsqueeze(0),
        value.unsqueeze(0),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=1.0,
        enable_gqa=True,
    )
    return attended.squeeze(0)


def _reject_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> None:
    if attention_mask is not None and not attention_mask.all():
        raise ValueError("batches have no padding here; a mask would have no effect")


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, _reject_mask)
