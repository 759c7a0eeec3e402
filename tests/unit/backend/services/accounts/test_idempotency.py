from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from backend.domain.idempotency import IdempotencyKeyReused, IdempotentRequest, StoredResponse
from backend.services.accounts.idempotency import (
    MAX_STORED_BYTES,
    RETENTION,
    Idempotency,
    OutcomeUnknown,
    RequestUnderWay,
)
from tests.support.fakes import FakeClock
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

LONGEST = 80
ANSWER = StoredResponse(201, "application/json", b'{"a": 1}')


def asks(what: str = "pay", key: str = "key", account: str = "payer") -> IdempotentRequest:
    return IdempotentRequest(some_account(account), key, some_hash(what))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def idempotency(database: Database, clock: FakeClock) -> Idempotency:
    return build(database, clock)


def build(database: Database, clock: FakeClock) -> Idempotency:
    return Idempotency(database, clock, LONGEST)


def test_a_kept_answer_is_given_again_after_a_restart(database: Database, clock: FakeClock) -> None:
    first = build(database, clock)
    first.store(asks(), str(first.start(asks())), ANSWER)
    clock.pass_seconds(3600)
    assert build(database, clock).start(asks()) == ANSWER


def test_another_request_under_the_key_is_refused_running_or_over(idempotency: Idempotency) -> None:
    claim = idempotency.start(asks())
    with pytest.raises(IdempotencyKeyReused):
        idempotency.start(asks("pay more"))
    idempotency.store(asks(), str(claim), ANSWER)
    with pytest.raises(IdempotencyKeyReused):
        idempotency.start(asks("pay more"))


def test_keys_are_their_accounts_own(idempotency: Idempotency) -> None:
    idempotency.start(asks())
    assert isinstance(idempotency.start(asks(account="another")), str)
    assert isinstance(idempotency.start(asks(key="another")), str)


def test_a_request_that_had_no_effect_may_run_again(idempotency: Idempotency) -> None:
    idempotency.release(asks(), str(idempotency.start(asks())))
    assert isinstance(idempotency.start(asks("something else")), str)


def test_who_lost_the_claim_changes_nothing(idempotency: Idempotency) -> None:
    idempotency.start(asks())
    idempotency.release(asks(), "not the claim")
    idempotency.store(asks(), "not the claim", ANSWER)
    with pytest.raises(RequestUnderWay) as caught:
        idempotency.start(asks())
    assert caught.value.details["retry_after_seconds"] == 1


def test_what_became_of_a_lost_request_is_not_guessed(idempotency: Idempotency, clock: FakeClock) -> None:
    idempotency.start(asks())
    clock.pass_seconds(LONGEST + 1)
    with pytest.raises(OutcomeUnknown, match="is unknown"):
        idempotency.start(asks())


def test_an_answer_too_large_is_not_run_again_either(idempotency: Idempotency) -> None:
    large = StoredResponse(200, "application/json", b" " * (MAX_STORED_BYTES + 1))
    idempotency.store(asks(), str(idempotency.start(asks())), large)
    with pytest.raises(OutcomeUnknown, match="too large"):
        idempotency.start(asks())


def test_the_answers_of_one_account_have_a_limit_together(
    idempotency: Idempotency, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "backend.services.accounts.idempotency.MAX_ACCOUNT_BYTES", 2 * len(ANSWER.body or b"")
    )
    for number in range(3):
        request = asks(key=f"key {number}")
        idempotency.store(request, str(idempotency.start(request)), ANSWER)
    assert [idempotency.start(asks(key=f"key {number}")) for number in range(2)] == [ANSWER, ANSWER]
    with pytest.raises(OutcomeUnknown, match="too large to store"):
        idempotency.start(asks(key="key 2"))
    other = asks(account="another")
    idempotency.store(other, str(idempotency.start(other)), ANSWER)
    assert idempotency.start(other) == ANSWER
    clock.pass_seconds(RETENTION.total_seconds() + 1)
    idempotency.store(asks(), str(idempotency.start(asks())), ANSWER)
    assert idempotency.start(asks()) == ANSWER


def test_keys_are_forgotten_after_a_day(idempotency: Idempotency, clock: FakeClock) -> None:
    idempotency.store(asks(), str(idempotency.start(asks())), ANSWER)
    clock.pass_seconds(RETENTION.total_seconds())
    assert idempotency.start(asks()) == ANSWER
    clock.pass_seconds(1)
    assert isinstance(idempotency.start(asks()), str)


def test_of_many_at_once_one_runs(idempotency: Idempotency) -> None:
    def start(_number: int) -> str | StoredResponse | None:
        try:
            return idempotency.start(asks())
        except RequestUnderWay:
            return None

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(start, range(16)))
    assert sum(claim is not None for claim in found) == 1
