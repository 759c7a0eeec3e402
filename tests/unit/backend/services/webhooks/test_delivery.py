"""Deliveries to a real server on loopback."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from openai import OpenAI
from standardwebhooks import Webhook

from backend.domain.webhooks import DELAYS, DISABLED_AFTER, KEPT_FOR, DeliveryState, EventType
from backend.ports.outbound import Posted, Unreachable
from backend.services.webhooks import delivery as module
from backend.services.webhooks.delivery import Deliveries, Outcome
from backend.services.webhooks.endpoints import EndpointOptions
from tests.support.receiver import receiving
from tests.support.webhooks import OWNER, WebhookHarness

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backend.db.unit_of_work import Database
    from tests.support.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def harness(sqlite_database: Database) -> WebhookHarness:
    return WebhookHarness(sqlite_database)


class Offline:
    """Refuses every connection, and counts them."""

    def __init__(self) -> None:
        self.num_calls = 0

    def check(self, url: str, *, seconds: float) -> None:
        pass

    def post(self, url: str, *, body: bytes, headers: Mapping[str, str], seconds: float) -> Any:
        self.num_calls += 1
        raise Unreachable(f"{url} cannot be reached: connection refused")


def test_stock_libraries_verify_what_arrives(harness: WebhookHarness, receiver: Receiver) -> None:
    made = harness.register(receiver.url)
    harness.clock.now = datetime.now(UTC)
    harness.emit()
    assert harness.send_due() == [Outcome.DELIVERED]
    [(headers, body)] = receiver.requests
    assert headers["content-type"] == "application/json"
    assert Webhook(made.secret).verify(body, headers) == json.loads(body)
    with OpenAI(api_key="unused") as client:
        event = client.webhooks.unwrap(body, headers, secret=made.secret)
    assert event.type == "fine_tuning.job.succeeded"
    assert event.object == "event"
    assert event.data.id.startswith("ftjob-")
    assert event.created_at == int(harness.clock.now.timestamp())
    [delivery] = harness.listed(made.endpoint)
    assert (delivery.state, delivery.status, delivery.error) == (DeliveryState.SUCCEEDED, 204, None)
    assert delivery.due_at is None
    assert harness.send_due() == []


def test_the_old_secret_signs_too_for_a_day_if_its_owner_says_so(
    harness: WebhookHarness, receiver: Receiver
) -> None:
    old = harness.register(receiver.url)
    rotated_at = harness.clock.now
    new = harness.endpoints.rotate_secret(OWNER, old.endpoint.id, keeps_old=True)
    for hours, signers in ((23, (new, old)), (24, (new,))):
        now = rotated_at + timedelta(hours=hours)
        headers = harness.signing.headers(new.endpoint, "wh_1", "{}", now)
        expected = [Webhook(each.secret).sign("wh_1", now, "{}") for each in signers]
        assert headers["webhook-signature"].split(" ") == expected
    last = harness.endpoints.rotate_secret(OWNER, old.endpoint.id, keeps_old=False)
    assert (
        len(harness.signing.headers(last.endpoint, "wh_1", "{}", rotated_at)["webhook-signature"].split())
        == 1
    )
    assert len({old.secret, new.secret, last.secret}) == 3


def test_failures_are_retried_on_the_schedule_with_the_same_id_and_body(sqlite_database: Database) -> None:
    http = Offline()
    harness = WebhookHarness(sqlite_database, http)
    made = harness.register("https://example.org/hook")
    harness.emit()
    for number, delay in enumerate(DELAYS, start=1):
        assert harness.send_due() == [Outcome.RETRIED]
        [delivery] = harness.listed(made.endpoint)
        assert (delivery.state, delivery.num_attempts) == (DeliveryState.PENDING, number)
        assert delivery.due_at == harness.clock.now + delay
        assert delivery.error == "https://example.org/hook cannot be reached: connection refused"
        harness.clock.now += delay - timedelta(seconds=1)
        assert harness.send_due() == []
        harness.clock.now += timedelta(seconds=1)
    assert harness.send_due() == [Outcome.GIVEN_UP]
    [delivery] = harness.listed(made.endpoint)
    assert (delivery.state, delivery.due_at, delivery.num_attempts) == (DeliveryState.FAILED, None, 10)
    assert http.num_calls == 10
    assert sum(DELAYS, timedelta()) == timedelta(hours=75, minutes=35, seconds=5)


def test_an_attempt_at_a_url_that_was_replaced_meanwhile_counts_for_nothing(
    sqlite_database: Database, receiver: Receiver
) -> None:
    class Moving(Offline):
        """Its owner changes the URL during the first attempt, which is answered with 410."""

        def post(self, url: str, **_: Any) -> Posted:
            options = EndpointOptions(url=receiver.url)
            harness.endpoints.change(OWNER, made.endpoint.id, options)
            return Posted(410)

    harness = WebhookHarness(sqlite_database, Moving())
    made = harness.register("https://example.org/hook")
    harness.emit()
    assert harness.send_due() == [None]
    assert harness.endpoints.get(OWNER, made.endpoint.id).is_enabled
    assert WebhookHarness(sqlite_database).send_due() == [Outcome.DELIVERED]
    assert len(receiver.requests) == 1


def test_chance_spreads_retries_by_a_tenth(sqlite_database: Database) -> None:
    harness = WebhookHarness(sqlite_database, Offline())
    made = harness.register("https://example.org/hook")
    spread = Deliveries(sqlite_database, Offline(), harness.signing, harness.clock, jitter=lambda: 1.0)
    harness.emit()
    [claimed] = spread.claim(16)
    spread.send(claimed)
    [delivery] = harness.listed(made.endpoint)
    assert delivery.due_at == harness.clock.now + timedelta(seconds=5.5)


def test_an_endpoint_that_answers_slowly_fails_at_the_deadline(
    harness: WebhookHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPT_SECONDS", 0.2)
    receiver.may_answer.clear()
    made = harness.register(receiver.url)
    harness.emit()
    assert harness.send_due() == [Outcome.RETRIED]
    [delivery] = harness.listed(made.endpoint)
    assert delivery.status is None
    assert "did not answer within" in (delivery.error or "")


def test_an_endpoint_that_is_gone_is_disabled_at_once(harness: WebhookHarness, receiver: Receiver) -> None:
    receiver.status = 410
    made = harness.register(receiver.url)
    harness.emit()
    harness.emit()
    assert harness.send_due() == [Outcome.GIVEN_UP]
    assert harness.send_due() == []
    found = harness.endpoints.get(OWNER, made.endpoint.id)
    assert found.disabled_reason == "It answered with status 410 Gone."
    second, first = harness.listed(made.endpoint)
    assert (first.state, first.status) == (DeliveryState.FAILED, 410)
    assert second.error == "The endpoint was disabled: It answered with status 410 Gone."
    harness.emit()
    assert len(harness.listed(made.endpoint)) == 2  # nothing more is queued


def test_a_redirect_is_a_failure_that_says_what_to_do(harness: WebhookHarness, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 301, {"location": "http://169.254.169.254/latest"}
    made = harness.register(receiver.url)
    harness.emit()
    assert harness.send_due() == [Outcome.RETRIED]
    [delivery] = harness.listed(made.endpoint)
    assert "redirect (301), and redirects are not followed" in (delivery.error or "")
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(("asked", "waited"), [("600", 600), ("1", 5), ("9" * 6, 86_400), ("soon", 5)])
def test_an_endpoint_may_ask_for_a_longer_wait(
    harness: WebhookHarness, receiver: Receiver, asked: str, waited: int
) -> None:
    receiver.status, receiver.headers = 429, {"retry-after": asked}
    made = harness.register(receiver.url)
    harness.emit()
    assert harness.send_due() == [Outcome.RETRIED]
    [delivery] = harness.listed(made.endpoint)
    assert delivery.due_at == harness.clock.now + timedelta(seconds=waited)


def test_an_endpoint_is_disabled_after_three_days_without_a_success(
    harness: WebhookHarness, receiver: Receiver
) -> None:
    made = harness.register(receiver.url)
    started = harness.clock.now
    for days, status in ((0, 500), (2.9, 204), (3, 500), (5.9, 500)):  # the success starts it anew
        harness.clock.now, receiver.status = started + timedelta(days=days), status
        harness.emit()
        harness.send_due()
        assert harness.endpoints.get(OWNER, made.endpoint.id).is_enabled
    harness.clock.now = started + timedelta(days=3) + DISABLED_AFTER
    harness.emit()
    assert Outcome.GIVEN_UP in harness.send_due()
    reason = harness.endpoints.get(OWNER, made.endpoint.id).disabled_reason or ""
    assert reason.startswith("Every delivery has failed since 2026-05-07 12:00 UTC.")
    assert reason.endswith("status 500; a 2xx status is expected.")
    harness.endpoints.change(OWNER, made.endpoint.id, EndpointOptions(is_enabled=True))
    receiver.status = 204
    harness.emit()
    assert harness.send_due() == [Outcome.DELIVERED]


def test_one_delivery_of_each_endpoint_is_sent_at_a_time_and_failing_endpoints_come_last(
    harness: WebhookHarness, receiver: Receiver
) -> None:
    failing = harness.register("http://127.0.0.1:1/hook").endpoint
    harness.emit()
    assert harness.send_due() == [Outcome.RETRIED]
    healthy = harness.register(receiver.url).endpoint
    harness.clock.now += DELAYS[0]
    harness.emit()
    harness.emit()
    claimed = harness.deliveries.claim(16)
    assert [delivery.endpoint_id for delivery in claimed] == [healthy.id, failing.id]
    assert harness.deliveries.claim(16, busy=(healthy.id, failing.id)) == []


def test_what_is_pending_when_its_endpoint_goes_is_not_sent(
    harness: WebhookHarness, receiver: Receiver
) -> None:
    made = harness.register(receiver.url)
    harness.emit()
    [claimed] = harness.deliveries.claim(16)
    harness.endpoints.change(OWNER, made.endpoint.id, EndpointOptions(is_enabled=False))
    assert harness.deliveries.send(claimed) is None
    harness.endpoints.delete(OWNER, made.endpoint.id)
    assert harness.deliveries.send(claimed) is None
    assert receiver.requests == []


def test_without_its_key_the_installation_signs_nothing_and_says_so(
    harness: WebhookHarness, receiver: Receiver
) -> None:
    made = harness.register(receiver.url)
    harness.emit()
    elsewhere = WebhookHarness(harness.database, key="another key")
    assert elsewhere.send_due() == [Outcome.RETRIED]
    [delivery] = harness.listed(made.endpoint)
    assert "rotate the secret" in (delivery.error or "")
    assert receiver.requests == []
    rotated = elsewhere.endpoints.rotate_secret(OWNER, made.endpoint.id, keeps_old=False)
    elsewhere.clock.now = datetime.now(UTC)
    assert elsewhere.send_due() == [Outcome.DELIVERED]
    [(headers, body)] = receiver.requests
    Webhook(rotated.secret).verify(body, headers)


def test_ended_deliveries_are_listed_for_a_month(harness: WebhookHarness, receiver: Receiver) -> None:
    made = harness.register(receiver.url)
    harness.emit()
    harness.send_due()
    harness.clock.now += KEPT_FOR
    harness.emit(EventType.JOB_FAILED)
    assert harness.deliveries.forget_ended() == 0
    harness.clock.now += timedelta(seconds=1)
    assert harness.deliveries.forget_ended() == 1
    assert [delivery.event_type for delivery in harness.listed(made.endpoint)] == [EventType.JOB_FAILED]
