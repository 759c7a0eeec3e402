"""Repository of webhook endpoints and deliveries."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import delete, func, select, update

from backend.db.mapping import from_row
from backend.db.paging import newest_first
from backend.db.session import insert_if_absent
from backend.db.tables.webhooks import WebhookDeliveryRow, WebhookEndpointRow
from backend.domain.webhooks import DeliveryState, EventType, WebhookDelivery, WebhookEndpoint

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import CursorResult
    from sqlalchemy.orm import Session

    from backend.domain.ids import Account


class WebhookStore:
    """Webhook endpoints, and deliveries to them: an outbox of its own, since an endpoint may be slow."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # Endpoints

    def add(self, endpoint: WebhookEndpoint, slots: int) -> bool:
        """Add an endpoint; False if its account has `slots` already, or takes the last one concurrently."""
        taken = set(
            self._session.scalars(select(WebhookEndpointRow.slot).filter_by(account=endpoint.account))
        )
        slot = next((slot for slot in range(slots) if slot not in taken), None)
        if slot is None:
            return False
        insert_if_absent(self._session, WebhookEndpointRow, slot=slot, **_columns(endpoint))
        return self._session.get(WebhookEndpointRow, endpoint.id) is not None

    def get(self, endpoint_id: str) -> WebhookEndpoint | None:
        row = self._session.get(WebhookEndpointRow, endpoint_id)
        return None if row is None else _endpoint(row)

    def locked(self, endpoint_id: str) -> WebhookEndpoint | None:
        """The endpoint, locked against changes until this transaction ends."""
        row = self._session.get(WebhookEndpointRow, endpoint_id, with_for_update=True, populate_existing=True)
        return None if row is None else _endpoint(row)

    def of(self, account: Account) -> list[WebhookEndpoint]:
        """All endpoints of the account, kept from deletion until this transaction ends."""
        query = select(WebhookEndpointRow).filter_by(account=account).order_by(WebhookEndpointRow.id)
        rows = self._session.scalars(query.with_for_update(read=True, key_share=True))
        return [_endpoint(row) for row in rows]

    def page(self, account: Account, after: str | None, limit: int) -> list[WebhookEndpoint]:
        """Endpoints after the endpoint `after`, newest first. Errors: `InvalidInput` if it is not listed."""
        query = select(WebhookEndpointRow).filter_by(account=account)
        return [
            _endpoint(row) for row in newest_first(self._session, query, WebhookEndpointRow, after, limit)
        ]

    def with_low_balance(self) -> list[WebhookEndpoint]:
        """Enabled endpoints with `low_balance`."""
        return self._enabled(WebhookEndpointRow.low_balance)

    def with_min_earnings(self) -> list[WebhookEndpoint]:
        """Enabled endpoints with `min_earnings`."""
        return self._enabled(WebhookEndpointRow.min_earnings)

    def save(self, endpoint: WebhookEndpoint) -> None:
        """Save a locked endpoint."""
        row = self._session.get_one(WebhookEndpointRow, endpoint.id)
        for name, value in _columns(endpoint).items():
            setattr(row, name, value)
        self._session.flush()

    def remove(self, endpoint_id: str) -> None:
        """Delete a locked endpoint and its deliveries."""
        self._session.execute(delete(WebhookDeliveryRow).filter_by(endpoint_id=endpoint_id))
        self._session.execute(delete(WebhookEndpointRow).filter_by(id=endpoint_id))

    # Deliveries

    def enqueue(
        self, endpoint_id: str, delivery_id: str, event_type: EventType, body: str, now: datetime
    ) -> None:
        """Add a delivery that is due now."""
        row = WebhookDeliveryRow(
            id=delivery_id,
            endpoint_id=endpoint_id,
            event_type=event_type,
            body=body,
            created_at=now,
            state=DeliveryState.PENDING,
            due_at=now,
        )
        self._session.add(row)
        self._session.flush()

    def deliveries(self, endpoint_id: str, before: int | None, limit: int) -> list[WebhookDelivery]:
        """Deliveries with a sequence below `before`, newest first."""
        query = select(WebhookDeliveryRow).filter_by(endpoint_id=endpoint_id)
        if before is not None:
            query = query.where(WebhookDeliveryRow.sequence < before)
        rows = self._session.scalars(query.order_by(WebhookDeliveryRow.sequence.desc()).limit(limit))
        return [_delivery(row) for row in rows]

    def claim(
        self, now: datetime, until: datetime, limit: int, busy: Collection[str]
    ) -> list[WebhookDelivery]:
        """The oldest due delivery of each endpoint that is not `busy`, first those of endpoints that do not
        fail. No other process claims them before `until`.
        """
        oldest = (
            select(func.min(WebhookDeliveryRow.sequence))
            .where(WebhookDeliveryRow.due_at <= now, WebhookDeliveryRow.endpoint_id.not_in(busy))
            .group_by(WebhookDeliveryRow.endpoint_id)
        )
        rows = self._session.scalars(
            select(WebhookDeliveryRow)
            .join(WebhookEndpointRow, WebhookEndpointRow.id == WebhookDeliveryRow.endpoint_id)
            .where(WebhookDeliveryRow.sequence.in_(oldest), WebhookDeliveryRow.due_at <= now)
            .order_by(WebhookEndpointRow.failing_since.is_not(None), WebhookDeliveryRow.due_at)
            .limit(limit)
            .with_for_update(of=WebhookDeliveryRow, skip_locked=True)
        ).all()
        for row in rows:
            row.due_at = until
        self._session.flush()
        return [_delivery(row) for row in rows]

    def pending(self, delivery_id: str) -> WebhookDelivery | None:
        """The delivery, locked until this transaction ends; None if it has ended."""
        query = select(WebhookDeliveryRow).filter_by(id=delivery_id, state=DeliveryState.PENDING)
        row = self._session.scalar(query.with_for_update())
        return None if row is None else _delivery(row)

    def save_delivery(self, delivery: WebhookDelivery) -> None:
        """Save a locked delivery."""
        row = self._session.get_one(WebhookDeliveryRow, delivery.sequence)
        for name, value in asdict(delivery).items():
            setattr(row, name, value)
        self._session.flush()

    def give_up(self, endpoint_id: str, error: str) -> None:
        """Fail all pending deliveries to an endpoint."""
        self._session.execute(
            update(WebhookDeliveryRow)
            .filter_by(endpoint_id=endpoint_id, state=DeliveryState.PENDING)
            .values(state=DeliveryState.FAILED, due_at=None, error=error)
        )

    def forget_ended(self, before: datetime) -> int:
        """Delete deliveries that have ended and are older than `before`; returns their number."""
        old = delete(WebhookDeliveryRow).where(
            WebhookDeliveryRow.created_at < before, WebhookDeliveryRow.state != DeliveryState.PENDING
        )
        return cast("CursorResult[Any]", self._session.execute(old)).rowcount

    def _enabled(self, threshold: Any) -> list[WebhookEndpoint]:
        query = select(WebhookEndpointRow).where(
            threshold.is_not(None), WebhookEndpointRow.disabled_reason.is_(None)
        )
        return [_endpoint(row) for row in self._session.scalars(query.order_by(WebhookEndpointRow.id))]


def _columns(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return asdict(endpoint) | {"event_types": list(endpoint.event_types)}


def _endpoint(row: WebhookEndpointRow) -> WebhookEndpoint:
    return from_row(WebhookEndpoint, row, event_types=tuple(map(EventType, row.event_types)))


def _delivery(row: WebhookDeliveryRow) -> WebhookDelivery:
    kind, state = EventType(row.event_type), DeliveryState(row.state)
    return from_row(WebhookDelivery, row, event_type=kind, state=state)
