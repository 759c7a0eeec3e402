"""Batched LoRA for CPUs, by matrix products only. Both variants equal `reference.lora_delta`.

All active adapters' rows lie stacked in one arena. For few tokens one product over every active row, with
foreign rows masked out, beats any gathering; for many tokens the wasted work wins over, and each run of
tokens that share a slot is multiplied by its own rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.lora.segments import Segment


def add_stacked(
    states: Tensor, shrink: Tensor, expand: Tensor, foreign: Tensor | None, output: Tensor
) -> None:
    """Add to `output` [num_tokens, out]: `shrink` [rows, in], `expand` [rows, out], `foreign` [num_tokens,
    rows] True where a row is not of the token's adapter (None: all rows are every token's own).

    Masking replaces instead of multiplying: another adapter's overflow times zero would be NaN.
    """
    shrunk = functional.linear(states, shrink)
    if foreign is not None:
        shrunk.masked_fill_(foreign, 0.0)
    output.addmm_(shrunk, expand)


def add_segmented(
    states: Tensor, shrink: Tensor, expand: Tensor, segments: Sequence[Segment], output: Tensor
) -> None:
    """Add to `output` run by run; `shrink` and `expand` are the whole arena's rows."""
    for segment in segments:
        tokens, rows = slice(segment.start, segment.end), segment.rows
        output[tokens].addmm_(functional.linear(states[tokens], shrink[rows]), expand[rows])
