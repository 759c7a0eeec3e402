from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import InvalidInput, NotFound
from backend.domain.money import DOLLAR
from backend.domain.webhooks import EventType
from backend.outbound.client import OutboundClient
from backend.services.webhooks.endpoints import (
    MAX_ENDPOINTS,
    MAX_TESTS,
    EndpointOptions,
    EndpointUnreachable,
    TestsBusy,
    TooManyEndpoints,
    WebhookUrlRefused,
)
from tests.support.market import some_account
from tests.support.receiver import receiving
from tests.support.waiting import wait_for
from tests.support.webhooks import NEVER_CALLED, OTHER, OWNER, WebhookHarness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account

PUBLIC = {"public.example": ["8.8.8.8"], "inside.example": ["10.0.0.1"], "both.example": ["8.8.8.8", "::1"]}


def resolve(host: str, _port: int) -> Sequence[str]:
    if host not in PUBLIC:
        raise OSError("no such host")
    return PUBLIC[host]


@pytest.fixture
def harness(sqlite_database: Database) -> WebhookHarness:
    return WebhookHarness(sqlite_database)


@pytest.fixture
def public(sqlite_database: Database) -> WebhookHarness:
    """An installation on a public network."""
    return WebhookHarness(sqlite_database, OutboundClient(resolve=resolve))


def test_the_secret_is_shown_once_and_the_database_has_none(harness: WebhookHarness) -> None:
    made = harness.register(NEVER_CALLED)
    assert made.secret.startswith("whsec_")
    assert made.endpoint.secret_hint == f"whsec_...{made.secret[-4:]}"
    with harness.database.read() as tx:
        connection = tx.session.connection()
        rows = connection.exec_driver_sql("SELECT * FROM webhook_endpoints").all()
    assert made.secret[6:] not in str(rows)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://inside.example/hook", "private network"),
        ("https://both.example/hook", "private network"),
        ("http://public.example/hook", "is not https"),
        ("https://nowhere.example/hook", "cannot be resolved"),
        ("https://user:word@public.example/", "user information"),
        ("ftp://public.example/", "http"),
        ("public.example/hook", "http"),
        ("", "plain ASCII URL"),
    ],
)
def test_a_url_that_may_not_be_called_is_refused(public: WebhookHarness, url: str, why: str) -> None:
    with pytest.raises(WebhookUrlRefused, match=why) as refused:
        public.register(url)
    assert refused.value.param == "url"
    assert public.endpoints.list(OWNER, 10) == []
    endpoint = public.register("https://public.example:8443/hook?channel=1").endpoint
    with pytest.raises(WebhookUrlRefused, match=why):
        public.endpoints.change(OWNER, endpoint.id, EndpointOptions(url=url))
    assert public.endpoints.get(OWNER, endpoint.id) == endpoint


def test_an_account_has_a_few_endpoints_and_gets_the_place_of_a_deleted_one(harness: WebhookHarness) -> None:
    made = [harness.register(NEVER_CALLED).endpoint for _ in range(MAX_ENDPOINTS)]
    with pytest.raises(TooManyEndpoints, match="at most 5") as refused:
        harness.register(NEVER_CALLED)
    assert refused.value.details == {"most": MAX_ENDPOINTS}
    harness.endpoints.create(
        OTHER, EndpointOptions(url=NEVER_CALLED, name="theirs", event_types=tuple(EventType))
    )
    harness.endpoints.delete(OWNER, made[2].id)
    harness.register(NEVER_CALLED)
    assert len(harness.endpoints.list(OWNER, 10)) == MAX_ENDPOINTS


def test_amounts_have_defaults_and_exist_with_their_events_only(harness: WebhookHarness) -> None:
    both = harness.register(NEVER_CALLED).endpoint
    assert (both.low_balance, both.min_earnings) == (DOLLAR, DOLLAR // 100)
    endpoint = harness.register(NEVER_CALLED, EventType.BALANCE_LOW, low_balance=7).endpoint
    assert (endpoint.low_balance, endpoint.min_earnings) == (7, None)
    with pytest.raises(InvalidInput, match=r"needs the event type earnings\.claimable") as refused:
        harness.endpoints.change(OWNER, endpoint.id, EndpointOptions(min_earnings=5))
    assert refused.value.param == "min_earnings"
    jobs = EndpointOptions(event_types=(EventType.JOB_FAILED,))
    assert harness.endpoints.change(OWNER, endpoint.id, jobs).low_balance is None


@pytest.mark.parametrize(
    ("options", "param"),
    [({"name": ""}, "name"), ({"name": "a\nb"}, "name"), ({"event_types": ()}, "event_types")],
)
def test_options_that_mean_nothing_are_refused(
    harness: WebhookHarness, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        harness.endpoints.create(
            OWNER,
            EndpointOptions(**{"url": NEVER_CALLED, "name": "a", "event_types": tuple(EventType), **options}),
        )
    assert refused.value.param == param


def test_only_a_change_moves_the_time_of_the_last_change(harness: WebhookHarness) -> None:
    endpoint = harness.register(NEVER_CALLED).endpoint
    harness.clock.pass_seconds(5)
    assert harness.endpoints.change(OWNER, endpoint.id, EndpointOptions(name="mine")) == endpoint
    changed = harness.endpoints.change(OWNER, endpoint.id, EndpointOptions(name="other"))
    assert changed.updated_at == harness.clock.now
    disabled = harness.endpoints.change(OWNER, endpoint.id, EndpointOptions(is_enabled=False))
    assert disabled.disabled_reason == "Disabled by its owner."


def test_endpoints_of_others_do_not_exist(harness: WebhookHarness) -> None:
    endpoint = harness.register(NEVER_CALLED).endpoint.id
    endpoints = harness.endpoints
    for call in (
        lambda: endpoints.get(OTHER, endpoint),
        lambda: endpoints.change(OTHER, endpoint, EndpointOptions(name="mine")),
        lambda: endpoints.delete(OTHER, endpoint),
        lambda: endpoints.rotate_secret(OTHER, endpoint, keeps_old=True),
        lambda: endpoints.test(OTHER, endpoint, EventType.JOB_FAILED),
        lambda: endpoints.deliveries(OTHER, endpoint, None, 10),
    ):
        with pytest.raises(NotFound):
            call()


def test_an_endpoint_that_does_not_answer_a_test_is_reported(harness: WebhookHarness) -> None:
    endpoint = harness.register(NEVER_CALLED).endpoint
    with pytest.raises(EndpointUnreachable, match="cannot be reached"):
        harness.endpoints.test(OWNER, endpoint.id, EventType.JOB_FAILED)


def test_few_tests_run_at_once_and_one_of_an_account(harness: WebhookHarness) -> None:
    with receiving() as receiver:
        accounts = [some_account(f"owner {number}") for number in range(MAX_TESTS + 1)]
        receiver.may_answer.clear()

        def test(account: Account) -> int:
            options = EndpointOptions(url=receiver.url, name="mine", event_types=[EventType.JOB_FAILED])
            endpoint = harness.endpoints.create(account, options).endpoint
            return harness.endpoints.test(account, endpoint.id, EventType.JOB_FAILED).status

        threads = [threading.Thread(target=test, args=(account,)) for account in accounts[:MAX_TESTS]]
        threads[0].start()
        assert wait_for(lambda: len(receiver.requests) == 1)
        with pytest.raises(TestsBusy, match="test of yours"):
            test(accounts[0])
        for thread in threads[1:]:
            thread.start()
        assert wait_for(lambda: len(receiver.requests) == MAX_TESTS)
        with pytest.raises(TestsBusy, match="Too many"):
            test(accounts[-1])
        receiver.may_answer.set()
        for thread in threads:
            thread.join()
        assert test(accounts[-1]) == 204
