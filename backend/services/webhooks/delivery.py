"""Delivers queued events to webhook endpoints, at least once and in no promised order.

A delivery is claimed, sent and recorded in three steps. A process that dies between sending and recording
leaves the claim to expire: the same id is then sent again.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING

from backend.domain.errors import Unavailable
from backend.domain.webhooks import (
    DISABLED_AFTER,
    KEPT_FOR,
    DeliveryState,
    WebhookDelivery,
    WebhookEndpoint,
    next_delay,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.ports.outbound import OutboundHttp
    from backend.services.webhooks.signing import SigningSecrets

ATTEMPT_SECONDS = 15.0
"""Limit of one attempt, name resolution included: the shortest that Standard Webhooks recommends."""
CLAIM = timedelta(seconds=60)
"""How long a claim lasts, longer than an attempt."""
LONGEST_RETRY_AFTER = timedelta(days=1)
"""An endpoint that asks for a longer wait is tried again after this one."""
JITTER = 0.1
"""Part of a wait that chance adds, so that the retries of an outage do not come all at once."""
REDIRECTS = range(300, 400)

log = logging.getLogger(__name__)


class Outcome(StrEnum):
    DELIVERED = "delivered"
    RETRIED = "retried"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answered. `error`: None for a success."""

    status: int
    error: str | None
    retry_after: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why an endpoint was not reached."""

    error: str
    status: None = None
    retry_after: timedelta = timedelta()


Attempt = Answer | NoAnswer


class Deliveries:
    """Sends claimed deliveries. Thread-safe; any number of processes may share a database."""

    def __init__(
        self,
        db: Database,
        http: OutboundHttp,
        secrets: SigningSecrets,
        clock: Callable[[], datetime],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._db = db
        self._http = http
        self._secrets = secrets
        self._clock = clock
        self._jitter = jitter

    def claim(self, limit: int, busy: Collection[str] = ()) -> list[WebhookDelivery]:
        """Due deliveries to send now, at most one for each endpoint, and none for those in `busy`."""
        now = self._clock()
        with self._db.begin() as tx:
            return tx.webhooks.claim(now, now + CLAIM, limit, busy)

    def send(self, delivery: WebhookDelivery) -> Outcome | None:
        """Send a claimed delivery and record the attempt.

        Returns None and records nothing if the delivery has ended during the attempt, or if the endpoint's
        URL has changed, in which case the delivery is due again.
        """
        with self._db.read() as tx:
            endpoint = tx.webhooks.get(delivery.endpoint_id)
        if endpoint is None or not endpoint.is_enabled:
            return None
        attempt = self._attempt(endpoint, delivery)
        with self._db.begin() as tx:
            locked, pending = tx.webhooks.locked(endpoint.id), tx.webhooks.pending(delivery.id)
            if locked is None or pending is None:
                return None
            if locked.url != endpoint.url:  # this attempt says nothing about the new URL
                tx.webhooks.save_delivery(replace(pending, due_at=self._clock()))
                return None
            return self._record(tx, locked, pending, attempt)

    def forget_ended(self) -> int:
        """Delete the records of deliveries that ended long ago."""
        with self._db.begin() as tx:
            return tx.webhooks.forget_ended(self._clock() - KEPT_FOR)

    def _attempt(self, endpoint: WebhookEndpoint, delivery: WebhookDelivery) -> Attempt:
        try:
            headers = self._secrets.headers(endpoint, delivery.id, delivery.body, self._clock())
            return post(self._http, endpoint.url, delivery.body, headers)
        except Unavailable as error:
            return NoAnswer(error.message)

    def _record(
        self, tx: UnitOfWork, endpoint: WebhookEndpoint, delivery: WebhookDelivery, attempt: Attempt
    ) -> Outcome:
        now, num_attempts = self._clock(), delivery.num_attempts + 1
        delivery = replace(
            delivery,
            num_attempts=num_attempts,
            attempted_at=now,
            status=attempt.status,
            error=attempt.error,
        )
        if attempt.error is None:
            tx.webhooks.save_delivery(replace(delivery, state=DeliveryState.SUCCEEDED, due_at=None))
            tx.webhooks.save(replace(endpoint, failing_since=None))
            return Outcome.DELIVERED
        # The error may quote the URL, which may hold a secret of the endpoint's owner.
        log.info("attempt %d of webhook %s failed", num_attempts, delivery.id)
        endpoint = replace(endpoint, failing_since=endpoint.failing_since or now)
        if (reason := _reason_to_disable(endpoint, attempt, now)) is not None:
            endpoint = replace(endpoint, disabled_reason=reason, updated_at=now)
        tx.webhooks.save(endpoint)
        return self._retry(tx, endpoint, delivery, attempt)

    def _retry(
        self, tx: UnitOfWork, endpoint: WebhookEndpoint, delivery: WebhookDelivery, attempt: Attempt
    ) -> Outcome:
        """Plan the next attempt, unless this was the last one or the endpoint is disabled."""
        delay = next_delay(delivery.num_attempts)
        if endpoint.is_enabled and delay is not None:
            wait = max(delay * (1 + JITTER * self._jitter()), min(attempt.retry_after, LONGEST_RETRY_AFTER))
            tx.webhooks.save_delivery(replace(delivery, due_at=self._clock() + wait))
            return Outcome.RETRIED
        tx.webhooks.save_delivery(replace(delivery, state=DeliveryState.FAILED, due_at=None))
        if not endpoint.is_enabled:
            give_up(tx, endpoint)
        return Outcome.GIVEN_UP


def give_up(tx: UnitOfWork, endpoint: WebhookEndpoint) -> None:
    """Fail all pending deliveries to an endpoint, in the transaction that disables it: none is pending while
    it is disabled.
    """
    tx.webhooks.give_up(endpoint.id, f"The endpoint was disabled: {endpoint.disabled_reason}")


def post(http: OutboundHttp, url: str, body: str, headers: dict[str, str]) -> Answer:
    """One request. Errors: `Unreachable` without an answer."""
    answer = http.post(url, body=body.encode(), headers=headers, seconds=ATTEMPT_SECONDS)
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return Answer(answer.status, None)
    error = f"The endpoint answered with status {answer.status}; a 2xx status is expected."
    if answer.status in REDIRECTS:
        error = (
            f"The endpoint answered with a redirect ({answer.status}), and redirects are not followed: "
            "register the URL that it leads to."
        )
    return Answer(answer.status, error, timedelta(seconds=answer.retry_after or 0))


def _reason_to_disable(endpoint: WebhookEndpoint, attempt: Attempt, now: datetime) -> str | None:
    if attempt.status == HTTPStatus.GONE:
        return "It answered with status 410 Gone."
    if endpoint.failing_since is not None and now - endpoint.failing_since >= DISABLED_AFTER:
        since = f"{endpoint.failing_since:%Y-%m-%d %H:%M} UTC"
        return f"Every delivery has failed since {since}. The last error: {attempt.error}"
    return None
