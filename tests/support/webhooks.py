"""Webhooks of one account on a real database, with a controllable clock and a real client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from backend.domain.webhooks import EventType
from backend.outbound.client import OutboundClient
from backend.services.webhooks.delivery import Deliveries
from backend.services.webhooks.endpoints import EndpointOptions, Endpoints
from backend.services.webhooks.events import SAMPLES, emit
from backend.services.webhooks.signing import SigningSecrets
from tests.support.fakes import FakeClock
from tests.support.market import some_account

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.domain.webhooks import WebhookDelivery, WebhookEndpoint
    from backend.services.webhooks.delivery import Outcome
    from backend.services.webhooks.endpoints import EndpointWithSecret

OWNER, OTHER = some_account("owner"), some_account("other")
ALL = tuple(EventType)
NEVER_CALLED = "http://127.0.0.1:1/hook"


class WebhookHarness:
    def __init__(self, database: Database, http: Any = None, key: str = "a webhook key") -> None:
        self.database, self.clock, self.signing = database, FakeClock(), SigningSecrets(key)
        http = http or OutboundClient(allows_private=True)
        self.endpoints = Endpoints(database, http, self.signing, self.clock)
        self.deliveries = Deliveries(database, http, self.signing, self.clock, jitter=lambda: 0.0)

    def register(self, url: str, *event_types: EventType, **options: Any) -> EndpointWithSecret:
        chosen = EndpointOptions(url=url, name="mine", event_types=event_types or ALL, **options)
        return self.endpoints.create(OWNER, chosen)

    def emit(self, event_type: EventType = EventType.JOB_SUCCEEDED) -> None:
        with self.database.begin() as tx:
            emit(tx, OWNER, event_type, SAMPLES[event_type], self.clock())

    def send_due(self) -> list[Outcome | None]:
        return [self.deliveries.send(delivery) for delivery in self.deliveries.claim(16)]

    def listed(self, endpoint: WebhookEndpoint) -> list[WebhookDelivery]:
        return list(self.endpoints.deliveries(OWNER, endpoint.id, None, 100))


def register(database: Database, account: Account, *event_types: EventType, **amounts: int) -> str:
    """Register an endpoint that is never called; returns its id."""
    options = EndpointOptions(url=NEVER_CALLED, name="mine", event_types=event_types or ALL, **amounts)
    return WebhookHarness(database).endpoints.create(account, options).endpoint.id


def events_of(database: Database, endpoint_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Type and data of the events for an endpoint, oldest first."""
    with database.read() as tx:
        found = tx.webhooks.deliveries(endpoint_id, None, 100)
    return [(delivery.event_type.value, json.loads(delivery.body)["data"]) for delivery in reversed(found)]
