"""Requests that are repeated with one idempotency key."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import PaymentRequired
from backend.domain.idempotency import IdempotencyKeyReused
from backend.domain.training import JobState
from tests.support.paid_training_harness import CONFIG, MOST, SNAPSHOT, PaidTrainingHarness

if TYPE_CHECKING:
    from backend.domain.training import TrainingJob


def test_requests_with_one_key_at_once_create_and_reserve_one_job(
    any_paid_harness: PaidTrainingHarness,
) -> None:
    any_paid_harness.installation.fund(MOST)
    at_once = threading.Barrier(4)

    def create(_: int) -> TrainingJob:
        training = any_paid_harness.training_with(any_paid_harness.installation.payments)
        at_once.wait()
        return training.create(any_paid_harness.installation.payer.account, SNAPSHOT, CONFIG, "once")

    with ThreadPoolExecutor(4) as threads:
        jobs = list(threads.map(create, range(4)))
    assert len({job.id for job in jobs}) == len(any_paid_harness.training.list()) == 1
    assert jobs[0].payment is not None
    assert any_paid_harness.reserved == jobs[0].payment.max_charge
    events = any_paid_harness.training.events(jobs[0].id)
    assert [event.kind for event in events] == ["state"]


def test_a_repeated_request_gets_its_job_as_it_is_now(paid_harness: PaidTrainingHarness) -> None:
    paid_harness.installation.fund(2 * MOST)
    create, payer = paid_harness.training.create, paid_harness.installation.payer.account
    job = create(payer, SNAPSHOT, CONFIG, "once")
    paid_harness.training.cancel(job.id, payer)
    assert create(payer, SNAPSHOT, CONFIG, "once").state is JobState.CANCELLED
    assert create(payer, SNAPSHOT, CONFIG, "twice").id != job.id
    with pytest.raises(IdempotencyKeyReused, match=f"was used for {job.id}"):
        create(payer, SNAPSHOT, CONFIG | {"epochs": 2}, "once")
    assert len(paid_harness.training.list()) == 2


def test_a_key_whose_job_was_refused_can_be_used(paid_harness: PaidTrainingHarness) -> None:
    def create() -> None:
        paid_harness.training.create(paid_harness.installation.payer.account, SNAPSHOT, CONFIG, "once")

    paid_harness.installation.fund(1)
    with pytest.raises(PaymentRequired):
        create()
    paid_harness.installation.fund(10**9)
    create()
    assert len(paid_harness.training.list()) == 1
