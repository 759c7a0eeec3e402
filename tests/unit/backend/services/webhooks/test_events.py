from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from backend.domain.webhooks import EventType
from backend.services.webhooks.endpoints import EndpointOptions
from backend.services.webhooks.events import SAMPLES, event_body
from tests.support.fakes import NOW
from tests.support.webhooks import ALL, NEVER_CALLED, OTHER, WebhookHarness

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

MOST_BYTES = 1024


@pytest.fixture
def harness(sqlite_database: Database) -> WebhookHarness:
    return WebhookHarness(sqlite_database)


def test_an_event_goes_to_each_enabled_endpoint_of_the_account_that_asked_for_it(
    harness: WebhookHarness,
) -> None:
    both = [
        harness.register(NEVER_CALLED, EventType.JOB_FAILED).endpoint,
        harness.register(NEVER_CALLED, *ALL).endpoint,
    ]
    unasked = harness.register(NEVER_CALLED, EventType.JOB_SUCCEEDED).endpoint
    disabled = harness.register(NEVER_CALLED, *ALL, is_enabled=False).endpoint
    foreign = harness.endpoints.create(
        OTHER, EndpointOptions(url=NEVER_CALLED, name="theirs", event_types=ALL)
    )
    harness.emit(EventType.JOB_FAILED)
    found = [delivery for endpoint in both for delivery in harness.listed(endpoint)]
    assert len({delivery.body for delivery in found}) == 1  # the same event
    assert len({delivery.id for delivery in found}) == 2
    assert harness.listed(unasked) == harness.listed(disabled) == []
    assert not harness.endpoints.deliveries(OTHER, foreign.endpoint.id, None, 10)


def test_nothing_is_queued_if_the_transaction_fails(harness: WebhookHarness) -> None:
    endpoint = harness.register(NEVER_CALLED).endpoint

    def fail() -> None:
        with harness.database.begin() as tx:
            tx.webhooks.enqueue(endpoint.id, "wh_1", EventType.JOB_FAILED, "{}", NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert harness.listed(endpoint) == []


@pytest.mark.parametrize("event_type", EventType)
def test_events_are_small_and_have_the_form_of_openais(event_type: EventType) -> None:
    body = event_body(event_type, SAMPLES[event_type], NOW)
    event = json.loads(body)
    assert set(event) == {"id", "object", "created_at", "type", "data"}
    assert (event["object"], event["type"]) == ("event", event_type)
    assert event["id"].startswith("evt_")
    assert event["created_at"] == int(NOW.timestamp())
    assert len(body.encode()) < MOST_BYTES
