"""Claims and slots on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

from backend.domain.webhooks import EventType
from backend.services.webhooks.endpoints import MAX_ENDPOINTS, TooManyEndpoints
from tests.support.fakes import NOW
from tests.support.webhooks import NEVER_CALLED, OWNER, WebhookHarness

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

LATER = NOW + timedelta(minutes=1)


def test_concurrent_requests_do_not_exceed_an_account_s_endpoints(database: Database) -> None:
    harness = WebhookHarness(database)

    def register(_: int) -> bool:
        try:
            harness.register(NEVER_CALLED)
        except TooManyEndpoints:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(register, range(3 * MAX_ENDPOINTS)))
    while register(0):
        pass
    assert len(harness.endpoints.list(OWNER, 100)) == MAX_ENDPOINTS


def test_a_delivery_is_claimed_once_until_the_claim_expires(database: Database) -> None:
    harness = WebhookHarness(database)
    endpoints = [harness.register(NEVER_CALLED).endpoint.id for _ in range(2)]
    for _ in range(2):
        harness.emit(EventType.JOB_FAILED)
    with database.begin() as tx:
        first = tx.webhooks.claim(NOW, LATER, 10, ())
        with database.read() as other:
            assert [found.state for found in other.webhooks.deliveries(endpoints[0], None, 10)]
    assert sorted(delivery.endpoint_id for delivery in first) == sorted(endpoints)
    with database.begin() as tx:
        assert tx.webhooks.claim(NOW, LATER, 10, endpoints) == []
        second = tx.webhooks.claim(NOW, LATER, 1, ())
    assert len(second) == 1
    assert second[0].id not in {delivery.id for delivery in first}
    with database.begin() as tx:
        again = tx.webhooks.claim(LATER, LATER + timedelta(minutes=1), 10, ())
    assert {delivery.id for delivery in again} == {delivery.id for delivery in first}


def test_an_endpoint_goes_with_its_deliveries(database: Database) -> None:
    harness = WebhookHarness(database)
    endpoint = harness.register(NEVER_CALLED).endpoint
    harness.emit()
    harness.endpoints.delete(OWNER, endpoint.id)
    with database.begin() as tx:
        assert tx.webhooks.get(endpoint.id) is None
        assert tx.webhooks.claim(NOW, LATER, 10, ()) == []
