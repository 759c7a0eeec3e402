"""Money that its payer withdraws while a job is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.money import AMOUNT
from backend.domain.training import Dataset, JobState, Step
from backend.services.channels.admission import Payer
from backend.services.train.payments import PaymentWithdrawn
from tests.support.admission import settle
from tests.support.market import some_hash
from tests.support.paid_training_harness import CID, MOST, NUM_ROWS, TOKENS, PaidTrainingHarness
from tests.support.scripted_installation import TRAINING_PRICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.training import TrainingJob

CHARGE = TOKENS * TRAINING_PRICE


@pytest.mark.parametrize("thawing", [MOST, 1])
def test_thawing_money_does_not_pay_for_training(paid_harness: PaidTrainingHarness, thawing: int) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    paid_harness.leases.complete_validation(
        paid_harness.lease(job, Step.VALIDATE), Dataset(some_hash("rows"), NUM_ROWS, 3)
    )
    paid_harness.installation.fund(MOST, thawing=thawing)
    assert paid_harness.leases.acquire(job.id, Step.TRAIN) is None
    found = paid_harness.training.get(job.id)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error["code"] == "payment_withdrawn"
    assert found.error["missing"] == {"balance": AMOUNT.render(thawing)}
    assert (paid_harness.reserved, paid_harness.receipts) == (0, [])


def test_money_that_starts_to_thaw_during_training_still_pays_for_it(
    paid_harness: PaidTrainingHarness,
) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    paid_harness.train(job)
    paid_harness.installation.fund(MOST, thawing=MOST)
    paid_harness.leases.complete_publication(paid_harness.lease(job, Step.PUBLISH), CID)
    assert len(paid_harness.receipts) == 1


def start_training(harness: PaidTrainingHarness) -> TrainingJob:
    """A job whose worker is lost after it started to train."""
    harness.installation.fund(MOST)
    job = harness.create()
    validated = harness.lease(job, Step.VALIDATE)
    harness.leases.complete_validation(validated, Dataset(some_hash("rows"), NUM_ROWS, 3))
    harness.leases.release(harness.lease(job, Step.TRAIN))
    return job


def test_training_that_resumes_counts_money_that_thaws_and_needs_no_session_key(
    paid_harness: PaidTrainingHarness,
) -> None:
    job = start_training(paid_harness)
    paid_harness.installation.fund(MOST, cap=0, thawing=MOST)
    assert paid_harness.leases.acquire(job.id, Step.TRAIN) is not None


@pytest.mark.parametrize(("balance", "thawing"), [(MOST - 1, 0), (MOST, 1)])
def test_training_does_not_resume_once_less_than_its_highest_charge_is_left(
    paid_harness: PaidTrainingHarness, balance: int, thawing: int
) -> None:
    job = start_training(paid_harness)
    now = int(paid_harness.installation.clock().timestamp())
    paid_harness.installation.fund(balance, MOST, thawing=thawing, thawed_at=now)
    assert paid_harness.leases.acquire(job.id, Step.TRAIN) is None
    error = paid_harness.training.get(job.id).error
    assert error is not None
    assert (error["code"], error["missing"]) == ("payment_withdrawn", {"balance": AMOUNT.render(1)})


def withdrawn(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(CHARGE - 1, MOST)


def thawed(harness: PaidTrainingHarness) -> None:
    """The payer can withdraw it before the receipt is settled."""
    now = int(harness.installation.clock().timestamp())
    harness.installation.fund(MOST, thawing=MOST - CHARGE + 1, thawed_at=now)


@pytest.mark.parametrize("take", [withdrawn, thawed])
def test_an_adapter_whose_charge_left_during_training_is_not_published(
    paid_harness: PaidTrainingHarness, take: Callable[[PaidTrainingHarness], None]
) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    paid_harness.train(job)
    take(paid_harness)
    assert paid_harness.leases.acquire(job.id, Step.PUBLISH) is None
    found = paid_harness.training.get(job.id)
    assert (found.state, found.cid) == (JobState.FAILED, None)
    assert found.error is not None
    assert found.error["code"] == "payment_withdrawn"
    assert found.error["missing"] == {"balance": AMOUNT.render(1)}
    assert (paid_harness.reserved, paid_harness.receipts) == (0, [])


@pytest.mark.parametrize("take", [withdrawn, thawed])
def test_money_that_leaves_while_the_adapter_is_published_changes_nothing_until_the_job_fails(
    any_paid_harness: PaidTrainingHarness, take: Callable[[PaidTrainingHarness], None]
) -> None:
    harness = any_paid_harness
    harness.installation.fund(MOST)
    job = harness.create()
    harness.train(job)
    held = harness.lease(job, Step.PUBLISH)
    take(harness)
    for _ in range(2):
        with pytest.raises(PaymentWithdrawn):
            harness.leases.complete_publication(held, CID)
        assert harness.training.get(job.id).state is JobState.RUNNING
        assert (harness.reserved, harness.receipts) == (MOST, [])
    harness.leases.fail(held, {"code": "payment_withdrawn", "message": "gone"})
    assert "published" not in {event.kind for event in harness.training.events(job.id)}
    assert (harness.reserved, harness.receipts) == (0, [])


def test_of_what_was_reserved_only_the_charge_must_be_left(paid_harness: PaidTrainingHarness) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    paid_harness.train(job)
    paid_harness.installation.fund(CHARGE, MOST)
    paid_harness.leases.complete_publication(paid_harness.lease(job, Step.PUBLISH), CID)
    assert len(paid_harness.receipts) == 1


def test_money_that_answers_of_the_channel_used_does_not_pay_for_the_adapter(
    paid_harness: PaidTrainingHarness,
) -> None:
    installation, answer = paid_harness.installation, 50
    payer = Payer(installation.payer.account)
    installation.fund(MOST + answer)
    settle(installation, payer, installation.admission.reserve(payer, answer), answer)
    job = paid_harness.create()
    paid_harness.train(job)
    installation.fund(CHARGE + answer - 1, MOST + answer)
    assert paid_harness.leases.acquire(job.id, Step.PUBLISH) is None
    found = paid_harness.training.get(job.id)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error["missing"] == {"balance": AMOUNT.render(1)}
    assert [one.signed.receipt.charge for one in paid_harness.receipts] == [answer]
