"""Webhooks: types of events, the endpoints that accounts registered, and deliveries to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from backend.domain.ids import Account, Hash32

DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 7200, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
"""Waits after each failed attempt: the schedule that Standard Webhooks suggests, over three days."""
MOST_ATTEMPTS = len(DELAYS) + 1
DISABLED_AFTER = timedelta(days=3)
"""How long every attempt at an endpoint fails before it is disabled."""
KEPT_FOR = timedelta(days=30)
"""How long ended deliveries are listed."""
OLD_SECRET_KEPT_FOR = timedelta(hours=24)
"""How long the previous secret signs too after a rotation that keeps it."""


class EventType(StrEnum):
    """Names are OpenAI's where its API has the event."""

    JOB_SUCCEEDED = "fine_tuning.job.succeeded"
    JOB_FAILED = "fine_tuning.job.failed"
    JOB_CANCELLED = "fine_tuning.job.cancelled"
    CONTRIBUTION_ACCEPTED = "contribution.accepted"
    CONTRIBUTION_REJECTED = "contribution.rejected"
    EARNINGS_CLAIMABLE = "earnings.claimable"
    BALANCE_LOW = "channel.balance_low"


class DeliveryState(StrEnum):
    PENDING = "pending"
    """Waits for its next attempt."""
    SUCCEEDED = "succeeded"
    """The endpoint answered an attempt with a 2xx status."""
    FAILED = "failed"
    """Its last attempt failed, or its endpoint was disabled."""


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """A URL that an account registered. Amounts are in micro-units."""

    id: str
    account: Account
    url: str
    name: str
    event_types: tuple[EventType, ...]
    created_at: datetime
    updated_at: datetime
    """Last change of the configuration or the secret."""
    secret_number: int
    """Number of the present signing secret, which rises by one with each rotation."""
    secret_hash: Hash32
    """sha-256 of the present signing secret."""
    secret_hint: str
    old_secret_until: datetime | None
    """Until when the previous secret signs too."""
    disabled_reason: str | None
    """Why nothing is sent; None while the endpoint is enabled."""
    failing_since: datetime | None
    """First failed attempt since the last one that succeeded."""
    low_balance: int | None
    """`channel.balance_low` is sent when less than this is available; None without that event."""
    is_low: bool
    """Whether the balance was below `low_balance` at the last check."""
    min_earnings: int | None
    """`earnings.claimable` is sent for at least this; None without that event."""
    reported_earnings: int
    """Cumulative earnings that the last `earnings.claimable` reported."""

    @property
    def is_enabled(self) -> bool:
        return self.disabled_reason is None


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One event for one endpoint, until it is delivered or given up."""

    sequence: int
    """Rises in the order of events."""
    id: str
    """The header `webhook-id`, the same at each attempt."""
    endpoint_id: str
    event_type: EventType
    body: str
    """JSON of the event, as it is signed and sent."""
    created_at: datetime
    state: DeliveryState
    num_attempts: int
    due_at: datetime | None
    """Next attempt; None once the delivery has ended."""
    attempted_at: datetime | None
    status: int | None
    """HTTP status of the last attempt's answer; None without one."""
    error: str | None
    """Why the last attempt failed."""


def next_delay(num_attempts: int) -> timedelta | None:
    """Wait after this many failed attempts; None if that was the last one."""
    return DELAYS[num_attempts - 1] if num_attempts < MOST_ATTEMPTS else None
