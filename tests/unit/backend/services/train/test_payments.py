"""What a job is charged for its adapter, and the receipt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import recover
from backend.domain.hashing import response_bytes, salted_hash, to_bytes, version_id
from backend.domain.rules import Rules
from backend.domain.training import JobState, Step
from backend.domain.training_payment import request_bytes, training_record
from backend.services.channels.admission import Payer
from backend.services.train.leases import LeaseLost
from tests.support.market import some_account, some_hash
from tests.support.paid_training_harness import (
    CID,
    CONFIG,
    MOST,
    RESULT,
    SNAPSHOT,
    TOKENS,
    PaidTrainingHarness,
)
from tests.support.scripted_installation import TRAINING_PRICE

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_published_adapter_costs_its_charged_tokens(any_paid_harness: PaidTrainingHarness) -> None:
    harness, installation = any_paid_harness, any_paid_harness.installation
    installation.fund(MOST)
    job = harness.publish(harness.create())
    assert job.state is JobState.SUCCEEDED
    assert harness.training.get(job.id) == job
    assert job.payment is not None
    [stored] = harness.receipts
    receipt = stored.signed.receipt
    assert stored.id == job.payment.receipt_id
    assert (receipt.prompt_tokens, receipt.completion_tokens) == (TOKENS, 0)
    assert receipt.charge == receipt.cumulative == TOKENS * TRAINING_PRICE
    assert [part.version_id for part in stored.signed.slices] == [version_id(installation.training_record)]
    assert Rules(installation.view).charges(stored.signed) == (receipt.charge,)  # type: ignore[arg-type]
    signer = recover(installation.domain.receipt_digest(receipt), stored.signed.signature)
    assert signer == installation.receipt_key.account
    assert harness.reserved == 0
    [event] = [event for event in harness.training.events(job.id) if event.kind == "charged"]
    assert event.data == {"receipt_id": stored.id, "tokens": TOKENS, "charge": str(receipt.charge)}


def test_the_receipt_is_for_this_job_and_this_adapter(paid_harness: PaidTrainingHarness) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.publish(paid_harness.create())
    [stored] = paid_harness.receipts
    salt, receipt = to_bytes(stored.salt), stored.signed.receipt
    assert receipt.request_hash == salted_hash(salt, request_bytes(job))
    assert receipt.response_hash == salted_hash(salt, response_bytes([RESULT.adapter_digest]))


def test_receipts_of_jobs_and_answers_stand_on_one_line(paid_harness: PaidTrainingHarness) -> None:
    """Each begins where the one before ended, in the order in which they end."""
    installation = paid_harness.installation
    installation.fund(4 * MOST)
    payer = Payer(installation.payer.account)
    first, second = paid_harness.create(), paid_harness.create()
    answering = installation.admission.reserve(payer, 1000)
    paid_harness.publish(second)
    bill_of = _bill_of(paid_harness)
    installation.admission.charge(payer, answering, bill_of(900))
    paid_harness.publish(first)
    lines = [(s.signed.receipt.cumulative, s.signed.receipt.charge) for s in reversed(paid_harness.receipts)]
    assert lines == [(642, 642), (1542, 900), (2184, 642)]


def _bill_of(harness: PaidTrainingHarness) -> Callable[[int], Any]:
    from tests.unit.backend.services.channels.test_admission import bill

    return lambda charge: bill(harness.installation, charge)


def test_publishing_twice_charges_once(any_paid_harness: PaidTrainingHarness) -> None:
    """A worker that was killed right after its transaction, and one that took over from it."""
    harness = any_paid_harness
    harness.installation.fund(2 * MOST)
    job = harness.create()
    harness.train(job)
    first = harness.lease(job, Step.PUBLISH)
    harness.installation.clock.pass_seconds(31)
    second = harness.lease(job, Step.PUBLISH)
    with pytest.raises(LeaseLost):
        harness.leases.complete_publication(first, CID)
    harness.leases.complete_publication(second, CID)
    with pytest.raises(LeaseLost):
        harness.leases.complete_publication(second, CID)
    assert harness.leases.acquire(job.id, Step.PUBLISH) is None
    assert len(harness.receipts) == 1


def test_a_transaction_that_dies_charges_nothing_and_the_next_one_all(
    paid_harness: PaidTrainingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    paid_harness.train(job)
    held = paid_harness.lease(job, Step.PUBLISH)

    def dies(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("backend.services.train.leases.finish", dies)
        with pytest.raises(KeyboardInterrupt):
            paid_harness.leases.complete_publication(held, CID)
    assert (paid_harness.receipts, paid_harness.reserved) == ([], MOST)
    assert paid_harness.training.get(job.id).state is JobState.RUNNING
    paid_harness.leases.complete_publication(held, CID)
    assert (len(paid_harness.receipts), paid_harness.reserved) == (1, 0)


def test_an_adapter_that_was_lost_and_trained_again_is_paid_for_once(
    paid_harness: PaidTrainingHarness,
) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    paid_harness.train(job, num_tokens=99)
    for _ in range(5):
        paid_harness.leases.retry_without_adapter(paid_harness.lease(job, Step.PUBLISH))
        paid_harness.installation.clock.pass_seconds(60)
    paid_harness.leases.complete_training(paid_harness.lease(job, Step.TRAIN), RESULT)
    paid_harness.leases.complete_publication(paid_harness.lease(job, Step.PUBLISH), CID)
    assert [stored.signed.receipt.prompt_tokens for stored in paid_harness.receipts] == [TOKENS]


def test_a_job_that_reserved_less_than_an_epoch_costs_at_most_that(
    paid_harness: PaidTrainingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier releases reserved the trained tokens alone."""
    paid_harness.installation.fund(MOST)
    with monkeypatch.context() as patched:
        patched.setattr("backend.services.train.payments.max_charged_tokens", lambda *_: 200)
        job = paid_harness.create(steps=1)
    assert paid_harness.reserved == 200 * TRAINING_PRICE
    paid_harness.publish(job)
    [stored] = paid_harness.receipts
    receipt = stored.signed.receipt
    assert (receipt.prompt_tokens, receipt.charge) == (200, 200 * TRAINING_PRICE)
    assert paid_harness.reserved == 0


def test_an_adapter_that_an_earlier_release_trained_costs_its_trained_tokens(
    paid_harness: PaidTrainingHarness,
) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    paid_harness.train(job)
    metrics = {name: value for name, value in RESULT.metrics.items() if name != "num_charged_tokens"}
    with paid_harness.installation.begin() as tx:
        trained = tx.training.locked(job.id)
        assert trained is not None
        tx.training.save(replace(trained, result=replace(RESULT, metrics=metrics)))
    paid_harness.leases.complete_publication(paid_harness.lease(job, Step.PUBLISH), CID)
    assert [stored.signed.receipt.prompt_tokens for stored in paid_harness.receipts] == [99]


def test_another_price_is_for_later_jobs_only(paid_harness: PaidTrainingHarness) -> None:
    paid_harness.installation.fund(100 * MOST)
    dearer = paid_harness.selling_at(50)
    job = paid_harness.create()
    paid_harness.installation.view.register(
        training_record(paid_harness.installation.operator, some_hash("base model"), 50)
    )
    later = paid_harness.training_with(dearer).create(job.creator, SNAPSHOT, CONFIG)
    assert later.payment is not None
    assert later.payment.max_charge == 25 * MOST
    paid_harness.leases = paid_harness.leases_with(dearer)
    assert paid_harness.publish(job).payment is not None
    assert paid_harness.receipts[0].signed.receipt.charge == TOKENS * TRAINING_PRICE


def test_free_training_needs_no_channel_and_gives_no_receipt(paid_harness: PaidTrainingHarness) -> None:
    free = paid_harness.selling_at(0)
    job = paid_harness.training_with(free).create(paid_harness.installation.payer.account, SNAPSHOT, CONFIG)
    paid_harness.leases = paid_harness.leases_with(free)
    assert (job.payment, free.price(paid_harness.installation.base.digest)) == (None, 0)
    assert paid_harness.publish(job).state is JobState.SUCCEEDED
    assert (paid_harness.reserved, paid_harness.receipts) == (0, [])


def test_a_job_that_was_free_stays_free(paid_harness: PaidTrainingHarness) -> None:
    job = paid_harness.training_with(paid_harness.selling_at(0)).create(
        some_account("creator"), SNAPSHOT, CONFIG
    )
    paid_harness.publish(job)
    assert paid_harness.receipts == []
