"""Webhook endpoints, as their accounts manage them."""

from __future__ import annotations

import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, DomainError, InvalidInput, NotFound, Overloaded
from backend.domain.money import DOLLAR
from backend.domain.webhooks import OLD_SECRET_KEPT_FOR, EventType, WebhookEndpoint
from backend.ports.outbound import Unreachable
from backend.services.webhooks.delivery import give_up, post
from backend.services.webhooks.events import SAMPLES, event_body, new_delivery_id
from backend.services.webhooks.signing import hash_of, hint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.domain.webhooks import WebhookDelivery
    from backend.ports.outbound import OutboundHttp
    from backend.services.webhooks.delivery import Answer
    from backend.services.webhooks.signing import SigningSecrets

MAX_ENDPOINTS = 5
"""Endpoints of one account."""
MAX_TESTS = 4
"""Concurrent tests of a process, one of an account: an endpoint may take long to answer."""
RESOLVE_SECONDS = 5.0
THRESHOLDS = {
    "low_balance": (EventType.BALANCE_LOW, DOLLAR),
    "min_earnings": (EventType.EARNINGS_CLAIMABLE, DOLLAR // 100),
}
"""The event that an amount is for, and its default."""
BY_OWNER = "Disabled by its owner."
_NAME_LENGTH = 64


class WebhookUrlRefused(InvalidInput):
    """The URL is no plain https URL, cannot be resolved, or leads into a private network."""


class TooManyEndpoints(Conflict):
    """The account has the most webhook endpoints that it may have."""


class EndpointUnreachable(DomainError):
    """The endpoint did not answer a test; the message says why."""


class TestsBusy(Overloaded):
    """Another endpoint of the account is being tested, or too many of other accounts are."""

    __test__ = False  # not a test class of pytest


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """What an owner chooses; None keeps what is set, or the default. Amounts are in micro-units."""

    url: str | None = None
    name: str | None = None
    event_types: Collection[EventType] | None = None
    low_balance: int | None = None
    min_earnings: int | None = None
    is_enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class EndpointWithSecret:
    """An endpoint with its signing secret, which cannot be retrieved later."""

    endpoint: WebhookEndpoint
    secret: str


class Endpoints:
    def __init__(
        self, db: Database, http: OutboundHttp, signing: SigningSecrets, clock: Callable[[], datetime]
    ) -> None:
        self._db = db
        self._http = http
        self._signing = signing
        self._clock = clock
        self._testing: set[Account] = set()
        self._changes = threading.Lock()

    def create(self, account: Account, options: EndpointOptions) -> EndpointWithSecret:
        """Register `options.url`. Errors: `WebhookUrlRefused`, `InvalidInput`, `TooManyEndpoints`."""
        now, endpoint_id = self._clock(), f"we_{secrets.token_hex(12)}"
        secret = self._signing.secret(endpoint_id, 1)
        blank = WebhookEndpoint(
            id=endpoint_id,
            account=account,
            url="",
            name="",
            event_types=(),
            created_at=now,
            updated_at=now,
            secret_number=1,
            secret_hash=hash_of(secret),
            secret_hint=hint_of(secret),
            old_secret_until=None,
            disabled_reason=None,
            failing_since=None,
            low_balance=None,
            is_low=False,
            min_earnings=None,
            reported_earnings=0,
        )
        endpoint = _changed(blank, options)
        self._check_url(endpoint.url)
        with self._db.begin() as tx:
            if not tx.webhooks.add(endpoint, MAX_ENDPOINTS):
                raise TooManyEndpoints(
                    f"An account has at most {MAX_ENDPOINTS} webhook endpoints: delete one, or change one.",
                    details={"most": MAX_ENDPOINTS},
                )
        return EndpointWithSecret(endpoint, secret)

    def list(self, account: Account, limit: int, after: str | None = None) -> Sequence[WebhookEndpoint]:
        """Endpoints after the endpoint `after`, newest first. Errors: `InvalidInput` if it is not listed."""
        with self._db.read() as tx:
            return tx.webhooks.page(account, after, limit)

    def get(self, account: Account, endpoint_id: str) -> WebhookEndpoint:
        """Errors: `NotFound`, also for other accounts' endpoints, as for all methods below."""
        with self._db.read() as tx:
            return _own(tx.webhooks.get(endpoint_id), account, endpoint_id)

    def change(self, account: Account, endpoint_id: str, options: EndpointOptions) -> WebhookEndpoint:
        """Errors: as of `create`, for what is changed. After another URL, or enabling it,
        earlier failures do not count.
        """
        self.get(account, endpoint_id)
        if options.url is not None:
            self._check_url(options.url)
        with self._db.begin() as tx:
            before = _own(tx.webhooks.locked(endpoint_id), account, endpoint_id)
            endpoint = _changed(before, options)
            if endpoint != before:
                endpoint = replace(endpoint, updated_at=self._clock())
                tx.webhooks.save(endpoint)
            if not endpoint.is_enabled:
                give_up(tx, endpoint)
        return endpoint

    def delete(self, account: Account, endpoint_id: str) -> None:
        """Delete the endpoint with its deliveries."""
        with self._db.begin() as tx:
            _own(tx.webhooks.locked(endpoint_id), account, endpoint_id)
            tx.webhooks.remove(endpoint_id)

    def rotate_secret(self, account: Account, endpoint_id: str, *, keeps_old: bool) -> EndpointWithSecret:
        """Replace the signing secret; with `keeps_old` the present one signs too for another day."""
        now = self._clock()
        with self._db.begin() as tx:
            before = _own(tx.webhooks.locked(endpoint_id), account, endpoint_id)
            number = before.secret_number + 1
            secret = self._signing.secret(endpoint_id, number)
            endpoint = replace(
                before,
                secret_number=number,
                secret_hash=hash_of(secret),
                secret_hint=hint_of(secret),
                old_secret_until=now + OLD_SECRET_KEPT_FOR if keeps_old else None,
                updated_at=now,
            )
            tx.webhooks.save(endpoint)
        return EndpointWithSecret(endpoint, secret)

    def test(self, account: Account, endpoint_id: str, event_type: EventType) -> Answer:
        """Send a sample event now, once, also to a disabled endpoint.

        Errors: `EndpointUnreachable` without an answer, `TestsBusy`, `WebhookKeyChanged`.
        """
        endpoint, now = self.get(account, endpoint_id), self._clock()
        body, message_id = event_body(event_type, SAMPLES[event_type], now), new_delivery_id()
        headers = self._signing.headers(endpoint, message_id, body, now)
        with self._test(account):
            try:
                return post(self._http, endpoint.url, body, headers)
            except Unreachable as error:
                raise EndpointUnreachable(error.message, param="url") from error

    @contextmanager
    def _test(self, account: Account) -> Iterator[None]:
        """Errors: `TestsBusy`."""
        with self._changes:
            if account in self._testing:
                raise TestsBusy("Another test of yours is running: wait for it.")
            if len(self._testing) >= MAX_TESTS:
                raise TestsBusy("Too many webhook endpoints are being tested; try again.")
            self._testing.add(account)
        try:
            yield
        finally:
            with self._changes:
                self._testing.remove(account)

    def deliveries(
        self, account: Account, endpoint_id: str, before: int | None, limit: int
    ) -> Sequence[WebhookDelivery]:
        """Deliveries with a sequence below `before`, newest first."""
        with self._db.read() as tx:
            _own(tx.webhooks.get(endpoint_id), account, endpoint_id)
            return tx.webhooks.deliveries(endpoint_id, before, limit)

    def _check_url(self, url: str) -> None:
        try:
            self._http.check(url, seconds=RESOLVE_SECONDS)
        except Unreachable as error:
            raise WebhookUrlRefused(error.message, param="url") from error


def _changed(before: WebhookEndpoint, options: EndpointOptions) -> WebhookEndpoint:
    """The endpoint with these options. Errors: `InvalidInput`."""
    name = before.name if options.name is None else options.name
    if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
        raise InvalidInput(f"An endpoint's name has 1 to {_NAME_LENGTH} printable characters.", param="name")
    events = before.event_types
    if options.event_types is not None:
        events = tuple(kind for kind in EventType if kind in options.event_types)
    if not events:
        raise InvalidInput("An endpoint needs at least one event type.", param="event_types")
    url = before.url if options.url is None else options.url
    is_enabled = before.is_enabled if options.is_enabled is None else options.is_enabled
    is_reset = url != before.url or (is_enabled and not before.is_enabled)
    low_balance = _threshold(before, options, events, "low_balance")
    return replace(
        before,
        name=name,
        url=url,
        event_types=events,
        low_balance=low_balance,
        is_low=before.is_low and low_balance is not None,
        min_earnings=_threshold(before, options, events, "min_earnings"),
        disabled_reason=None if is_enabled else before.disabled_reason or BY_OWNER,
        failing_since=None if is_reset else before.failing_since,
    )


def _threshold(
    before: WebhookEndpoint, options: EndpointOptions, events: Collection[EventType], name: str
) -> int | None:
    """The amount `name`; None without its event. Errors: `InvalidInput` if one is chosen nevertheless."""
    event, default = THRESHOLDS[name]
    chosen: int | None = getattr(options, name)
    if event in events:
        amounts = (chosen, getattr(before, name), default)
        return next(amount for amount in amounts if amount is not None)
    if chosen is not None:
        raise InvalidInput(f"{name} needs the event type {event.value}: add it to event_types.", param=name)
    return None


def _own(endpoint: WebhookEndpoint | None, account: Account, endpoint_id: str) -> WebhookEndpoint:
    """Errors: `NotFound`, also for another account's endpoint, whose existence is not revealed."""
    if endpoint is None or endpoint.account != account:
        raise NotFound(f"No webhook endpoint {endpoint_id[:64]}.", param="webhook_endpoint_id")
    return endpoint
