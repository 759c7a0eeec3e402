"""What a job reserves, from its creation to its end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import DomainError, PaymentRequired
from backend.domain.money import AMOUNT
from backend.domain.training import Dataset, Step
from backend.domain.training_payment import max_charged_tokens
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.channels.admission import Payer
from backend.services.channels.balance import ViewStale
from backend.services.channels.ledger import InsufficientAuthorisation, InsufficientBalance
from backend.services.train.leases import LeaseLost, RowsDiffer
from backend.services.train.options import InvalidConfig
from backend.services.train.payments import TrainingNotOffered
from tests.support.market import some_hash
from tests.support.paid_training_harness import CID, MOST, NUM_ROWS, PaidTrainingHarness
from tests.support.scripted_installation import TRAINING_PRICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.training import TrainingJob


def unregistered(harness: PaidTrainingHarness) -> None:
    harness.installation.view.versions_list.pop()


def stale(harness: PaidTrainingHarness) -> None:
    harness.installation.view.lag_seconds = 61


def revoked(harness: PaidTrainingHarness) -> None:
    harness.installation.revoke_session()


REFUSALS: list[
    tuple[str, tuple[int, int, int], Callable[[PaidTrainingHarness], None] | None, type[DomainError]]
] = [
    ("no deposit", (0, 0, 0), None, InsufficientBalance),
    ("a unit too little", (MOST - 1, MOST, 0), None, InsufficientBalance),
    ("money that thaws", (MOST, MOST, 1), None, InsufficientBalance),
    ("a cap too low", (MOST, MOST - 1, 0), None, InsufficientAuthorisation),
    ("a key that was revoked", (MOST, MOST, 0), revoked, InsufficientAuthorisation),
    ("an old view of the chain", (MOST, MOST, 0), stale, ViewStale),
    ("no record of training", (MOST, MOST, 0), unregistered, TrainingNotOffered),
]


@pytest.mark.parametrize(
    ("funds", "harm", "error"), [case[1:] for case in REFUSALS], ids=[c[0] for c in REFUSALS]
)
def test_a_job_that_is_not_covered_is_refused_by_name_and_leaves_nothing(
    paid_harness: PaidTrainingHarness,
    funds: tuple[int, int, int],
    harm: Callable[[PaidTrainingHarness], None] | None,
    error: type[DomainError],
) -> None:
    balance, cap, thawing = funds
    paid_harness.installation.fund(balance, cap, thawing=thawing)
    if harm is not None:
        harm(paid_harness)
    with pytest.raises(error):
        paid_harness.create()
    assert (paid_harness.training.list(), paid_harness.reserved) == ([], 0)


def test_the_refusal_says_what_is_missing(paid_harness: PaidTrainingHarness) -> None:
    paid_harness.installation.fund(MOST - 7)
    with pytest.raises(PaymentRequired) as refusal:
        paid_harness.create()
    assert refusal.value.details["missing"] == {
        "balance": AMOUNT.render(7),
        "authorisation": AMOUNT.render(7),
    }
    assert refusal.value.details["required"] == AMOUNT.render(MOST)


def test_more_tokens_than_a_receipt_holds_are_refused_by_the_option(
    paid_harness: PaidTrainingHarness,
) -> None:
    paid_harness.installation.fund(1 << 60)
    many = {"max_length": 8192, "batch_size": 8}
    with pytest.raises(InvalidConfig) as refusal:
        paid_harness.create(**many, steps=100_000)
    assert refusal.value.param == "steps"
    paid_harness.create(**many, steps=50_000)


def test_an_epoch_of_more_tokens_than_a_receipt_holds_is_refused_whatever_the_steps(
    paid_harness: PaidTrainingHarness,
) -> None:
    paid_harness.installation.record_rows(600_000)
    with pytest.raises(InvalidConfig, match="lower max_length") as refusal:
        paid_harness.create(max_length=8192, batch_size=8, steps=1)
    assert refusal.value.param == "max_length"


def test_a_voucher_covers_a_job_as_a_session_key_does(paid_harness: PaidTrainingHarness) -> None:
    installation = paid_harness.installation
    installation.fund(MOST, cap=0)
    voucher = SignedVoucher(Voucher(installation.channel, 0, MOST), "0x" + "00" * 65)
    with installation.begin() as tx:
        tx.channels.put_voucher(ClientVoucher(voucher, installation.payer.account))
    assert paid_harness.create().payment is not None
    with pytest.raises(PaymentRequired):
        paid_harness.create()


def test_the_maximum_cost_stays_reserved_until_the_job_ends(
    any_paid_harness: PaidTrainingHarness,
) -> None:
    harness, installation = any_paid_harness, any_paid_harness.installation
    installation.fund(2 * MOST)
    job = harness.create()
    assert job.payment is not None
    assert (job.payment.price, job.payment.max_charge, harness.reserved) == (TRAINING_PRICE, MOST, MOST)
    assert harness.training.get(job.id) == job
    installation.clock.pass_seconds(20 * 3600)
    payer = Payer(installation.payer.account)
    with pytest.raises(PaymentRequired):
        installation.admission.reserve(payer, MOST + 1)
    installation.admission.release(installation.admission.reserve(payer, MOST))
    assert harness.reserved == MOST


def cancelled(harness: PaidTrainingHarness, job: TrainingJob) -> None:
    harness.training.cancel(job.id, job.creator)
    harness.training.cancel(job.id, job.creator)


def failed(harness: PaidTrainingHarness, job: TrainingJob) -> None:
    harness.leases.fail(harness.lease(job, Step.VALIDATE), {"code": "unusable_rows", "message": "none"})


def cancelled_when_it_was_trained(harness: PaidTrainingHarness, job: TrainingJob) -> None:
    harness.train(job)
    held = harness.lease(job, Step.PUBLISH)
    harness.training.cancel(job.id, job.creator)
    with pytest.raises(LeaseLost):
        harness.leases.complete_publication(held, CID)


def given_up(harness: PaidTrainingHarness, job: TrainingJob) -> None:
    for _ in range(5):
        harness.lease(job, Step.VALIDATE)
        harness.installation.clock.pass_seconds(31)
    assert harness.leases.acquire(job.id, Step.VALIDATE) is None


@pytest.mark.parametrize("end", [cancelled, failed, cancelled_when_it_was_trained, given_up])
def test_a_job_without_an_adapter_costs_nothing(
    any_paid_harness: PaidTrainingHarness, end: Callable[[PaidTrainingHarness, TrainingJob], None]
) -> None:
    harness = any_paid_harness
    harness.installation.fund(MOST)
    job = harness.create()
    end(harness, job)
    assert harness.training.get(job.id).is_over
    assert (harness.reserved, harness.receipts) == (0, [])
    harness.create()  # the same money again


@pytest.mark.parametrize("options", [{}, {"steps": 100}], ids=["epochs", "steps"])
def test_a_job_with_more_rows_than_were_recorded_is_not_trained(
    paid_harness: PaidTrainingHarness, options: dict[str, Any]
) -> None:
    """Whether or not more rows raise the most that it may cost."""
    paid_harness.installation.fund(100 * MOST)
    held = paid_harness.lease(paid_harness.create(**options), Step.VALIDATE)
    with pytest.raises(RowsDiffer, match="21 rows"):
        paid_harness.leases.complete_validation(held, Dataset(some_hash("rows"), NUM_ROWS + 1, 3))
    paid_harness.leases.complete_validation(held, Dataset(some_hash("rows"), NUM_ROWS, 3))


def test_a_job_of_one_step_reserves_an_epoch(paid_harness: PaidTrainingHarness) -> None:
    paid_harness.installation.fund(MOST - 1)
    with pytest.raises(InsufficientBalance):
        paid_harness.create(steps=1)


def test_a_takedown_does_not_wait_for_jobs(paid_harness: PaidTrainingHarness) -> None:
    """It waits for the answers under way, which end within minutes."""
    paid_harness.installation.fund(MOST + 10)
    paid_harness.create()
    answering = paid_harness.installation.admission.reserve(
        Payer(paid_harness.installation.payer.account), 10
    )
    with paid_harness.installation.read() as tx:
        assert tx.channels.reserved(paid_harness.installation.clock()) == {answering.id}


def test_jobs_and_answers_at_once_never_get_more_than_there_is(any_paid_harness: PaidTrainingHarness) -> None:
    """Twelve jobs and twelve answers of the same price race for money that is enough for seven of them."""
    harness, installation = any_paid_harness, any_paid_harness.installation
    installation.fund(7 * MOST + MOST // 2)
    start = threading.Barrier(24)
    payer = Payer(installation.payer.account)

    def ask(number: int) -> bool:
        start.wait()
        try:
            if number % 2:
                harness.create()
            else:
                installation.admission.reserve(payer, MOST)
        except PaymentRequired:
            return False
        return True

    with ThreadPoolExecutor(24) as threads:
        admitted = sum(threads.map(ask, range(24)))
    assert (admitted, harness.reserved) == (7, 7 * MOST)
    jobs = harness.training.list()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(harness.publish, jobs))
    assert len(harness.receipts) == len(jobs)
    assert max((s.signed.receipt.cumulative for s in harness.receipts), default=0) == len(jobs) * 642


def test_the_bound_is_what_is_kept(paid_harness: PaidTrainingHarness) -> None:
    paid_harness.installation.fund(1 << 40)
    for options in ({"epochs": 3}, {"steps": 7}, {"packing": True, "max_length": 100}, {"batch_size": 64}):
        job = paid_harness.create(**options)
        assert job.payment is not None
        assert job.payment.max_tokens == max_charged_tokens(job.config, NUM_ROWS)
