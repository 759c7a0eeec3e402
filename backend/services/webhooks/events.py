"""Queues events for the webhook endpoints of an account, in the transaction of what they report."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from backend.domain.money import AMOUNT
from backend.domain.webhooks import EventType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account
    from backend.domain.webhooks import WebhookEndpoint

_ZERO_JOB, _ZERO_UPLOAD = {"id": f"ftjob-{0:032x}"}, {"id": "0" * 32, "datanet": 1}
_ZERO_ACCOUNT, _ZERO_CHANNEL = f"0x{0:040x}", f"0x{0:064x}"
SAMPLES: Mapping[EventType, Mapping[str, Any]] = {
    EventType.JOB_SUCCEEDED: _ZERO_JOB,
    EventType.JOB_FAILED: _ZERO_JOB,
    EventType.JOB_CANCELLED: _ZERO_JOB,
    EventType.CONTRIBUTION_ACCEPTED: _ZERO_UPLOAD | {"reason": None},
    EventType.CONTRIBUTION_REJECTED: _ZERO_UPLOAD | {"reason": "quality"},
    EventType.EARNINGS_CLAIMABLE: {
        "account": _ZERO_ACCOUNT,
        "operator": _ZERO_ACCOUNT,
        "claimable": AMOUNT.render(20_000_000_000),
        "cumulative": AMOUNT.render(70_000_000_000),
    },
    EventType.BALANCE_LOW: {
        "id": _ZERO_CHANNEL,
        "available": AMOUNT.render(900_000_000_000),
        "low_balance": AMOUNT.render(1_000_000_000_000),
    },
}
"""The `data` of each event, as `POST /v1/webhook_endpoints/{id}/test` sends it."""


def emit(
    tx: UnitOfWork, account: Account, event_type: EventType, data: Mapping[str, Any], now: datetime
) -> None:
    """Queue an event for every endpoint of the account that asked for its type.

    `data` holds ids, amounts and states only: no prompt, row or secret.
    """
    found = tx.webhooks.of(account)
    emit_to(
        tx, [one for one in found if one.is_enabled and event_type in one.event_types], event_type, data, now
    )


def emit_to(
    tx: UnitOfWork,
    endpoints: Iterable[WebhookEndpoint],
    event_type: EventType,
    data: Mapping[str, Any],
    now: datetime,
) -> None:
    """Queue an event for these endpoints."""
    body = event_body(event_type, data, now)
    for endpoint in endpoints:
        tx.webhooks.enqueue(endpoint.id, new_delivery_id(), event_type, body, now)


def event_body(event_type: EventType, data: Mapping[str, Any], now: datetime) -> str:
    """The JSON of a new event, in the form of OpenAI's webhooks."""
    event = {
        "id": f"evt_{secrets.token_hex(16)}",
        "object": "event",
        "created_at": int(now.timestamp()),
        "type": event_type.value,
        "data": dict(data),
    }
    return json.dumps(event, separators=(",", ":"))


def new_delivery_id() -> str:
    return f"wh_{secrets.token_hex(16)}"
