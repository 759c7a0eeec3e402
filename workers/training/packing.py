"""Batches without padding: the rows of a batch stand one after the other, as one long row.

All layers but attention look at one token at a time and never know; attention is told where rows end. So a
step's rows are drawn as the plain Trainer draws them, and lead to its loss, without paying for the longest.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft.helpers import disable_input_dtype_casting
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from workers.training.rows import IGNORED, own_positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from workers.training.preamble import Layer, Skipped
    from workers.training.rows import Example

ATTENTION = "rows"
LONGEST_TOGETHER = 256
"""Tokens of a row. Shorter ones are attended to in one product with all scores kept for the backward pass,
which takes a CPU a third of the time of torch's fused one; longer ones by the fused one, row by row.
"""


def flatten(examples: Sequence[Example], preamble: Sequence[int] = ()) -> dict[str, Tensor]:
    """`input_ids`, `position_ids`, `labels`, each int64 [1, tokens]; `row_lengths` int64 [rows]. What rows
    have of `preamble` behind their first token is left out.

    The head is as wide as the vocabulary, so it is computed where something is learnt and nowhere else:
    `logits_to_keep` [kept] are the tokens from which one is predicted that is learnt, `shift_labels`
    [1, kept] those predicted. Nothing predicts a row's first token.
    """
    rows = [(example, own_positions(example, preamble)) for example in examples]
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


def row_places(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(places of the rows' tokens int64 [rows, longest], which of them are real bool [rows, longest]).

    Behind its end a row has its last token again.
    """
    steps = torch.arange(int(lengths.max()), device=lengths.device)
    starts, lengths = (lengths.cumsum(0) - lengths).unsqueeze(1), lengths.unsqueeze(1)
    return starts + torch.minimum(steps, lengths - 1), steps < lengths


@contextmanager
def computing(model: Any) -> Iterator[None]:
    """Around passes of a PEFT model: where the base is in bf16, so are the products of the adapter, whose
    weights stay in fp32. Not around optimizer steps: what was rounded is kept to the end.
    """
    with (
        disable_input_dtype_casting(model, active=is_in_bf16(model)),
        torch.autocast(model.device.type, torch.bfloat16, enabled=is_in_bf16(model)),
    ):
        yield


def is_in_bf16(model: Any) -> bool:
    """Whether the frozen weights are."""
    return bool(model.get_input_embeddings().weight.dtype == torch.bfloat16)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: Tensor | None = None,
    skipped: Sequence[Skipped] = (),
    read_into: list[Layer] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row. `query` [1, heads, tokens, size]; `key` and `value` may have fewer
    heads. Returns [1, tokens, heads, size]. Without `row_lengths` as transformers does it.

    `skipped`: of each layer what rows see without reading it. `read_into` takes this layer's keys and values.
    """
    if row_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)[0], None
    parts = query[0] * others["scaling"], key[0], value[0]
    if read_into is not None:
        read_into.append(parts[1:])
    before = skipped[module.layer_idx] if skipped else None
    longest = int(row_lengths.max()) + (before.keys.shape[1] if before else 0)
    dropout, window = others["dropout"], others.get("sliding_window")
    if longest <= min(LONGEST_TOGETHER, window or LONGEST_TOGETHER):
        return _together(*parts, row_lengths, before, dropout).unsqueeze(0), None
    by_row = zip(*(torch.split(part, row_lengths.tolist(), dim=1) for part in parts), strict=True)
    attended = [
        _alone(q, k, v, before.of_row(number) if before else None, dropout, window)
        for number, (q, k, v) in enumerate(by_row)
    ]
    return torch.cat(attended, dim=1).transpose(0, 1).unsqueeze(0), None


def _together(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, before: Skipped | None, dropout: float
) -> Tensor:
    """[tokens, heads, size]. Query heads that share a key's are rows of one product."""
    places, is_real = row_places(lengths)
    num_rows, longest = places.shape
    num_heads, num_keys = len(query), len(key)

    def by_row(part: Tensor) -> Tensor:
        taken = part.index_select(1, places.flatten()).view(len(part), num_rows, longest, -1)
        return taken.transpose(0, 1)  # [rows, heads, longest, size]

    queries = by_row(query).reshape(num_rows, num_keys, -1, query.shape[-1])
    keys, values = by_row(key), by_row(value)
    hidden = torch.ones(longest, longest, dtype=torch.bool, device=query.device).triu(1)
    if before is not None:
        keys, values, hidden = before.in_front_of(keys, values, hidden)
    scores = (queries @ keys.transpose(2, 3)).view(num_rows, num_heads, longest, -1)
    weights = functional.dropout(scores.masked_fill(hidden, -torch.inf).softmax(-1), dropout)
    attended = weights.view(num_rows, num_keys, -1, keys.shape[2]) @ values
    attended = attended.view(num_rows, num_heads, longest, -1).transpose(1, 2).flatten(0, 1)
    return attended.index_select(0, is_real.flatten().nonzero().squeeze(1))


def _alone(
    query: Tensor, key: Tensor, value: Tensor, skipped: Layer | None, dropout: float, window: int | None
) -> Tensor:
    """One row: [heads, tokens, size]."""
    if skipped is not None:
        key, value = (
            torch.cat([own[:, :1], read, own[:, 1:]], dim=1)
            for own, read in zip((key, value), skipped, strict=True)
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


def _no_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> None:
    if attention_mask is not None and not attention_mask.all():
        raise ValueError("rows stand one after the other here; a mask over padding would have no effect")


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, _no_mask)
