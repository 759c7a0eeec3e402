"""Receipts of made-up answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.hashing import attribution_hash, slices_hash
from backend.domain.receipt import Receipt
from backend.domain.split import charge
from tools.labels import some_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import ChannelId
    from backend.domain.receipt import Slice
    from backend.domain.split import Priced


def new_receipt(
    channel: ChannelId,
    begins: int,
    method: str,
    slices: tuple[Slice, ...],
    prices: Sequence[Priced],
    tokens: tuple[int, int],
    **fields: Any,
) -> Receipt:
    """A receipt that starts at cumulative `begins` and charges the slices' prices for prompt and completion
    `tokens`. `fields` replace others of its fields.
    """
    prompt, completion = tokens
    amount = charge(slices, prices, prompt, completion)
    made: dict[str, Any] = {
        "channel_id": channel,
        "cumulative": begins + amount,
        "charge": amount,
        "request_hash": some_hash(f"request {channel} {begins}"),
        "response_hash": some_hash(f"response {channel} {begins}"),
        "slices_hash": slices_hash(slices),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "attribution_hash": attribution_hash(method, slices),
        "served_at": 1_790_000_000,
    }
    return Receipt(**(made | fields))
