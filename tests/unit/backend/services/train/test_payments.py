"""Payment of a job, from its reservation to its receipt."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import recover
from backend.domain.errors import DomainError, PaymentRequired
from backend.domain.hashing import response_bytes, salted_hash, to_bytes, version_id
from backend.domain.idempotency import IdempotencyKeyReused
from backend.domain.money import AMOUNT
from backend.domain.rules import Rules
from backend.domain.training import Dataset, JobState, Step
from backend.domain.training_payment import max_charged_tokens, request_bytes, training_record
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.channels.admission import Payer
from backend.services.channels.balance import ViewStale
from backend.services.channels.ledger import InsufficientAuthorisation, InsufficientBalance
from backend.services.train.leases import LeaseLost, RowsDiffer
from backend.services.train.options import InvalidConfig
from backend.services.train.payments import PaymentWithdrawn, TrainingNotOffered
from tests.support.market import some_account, some_hash
from tests.support.paid_training_harness import (
    CID,
    CONFIG,
    MOST,
    NUM_ROWS,
    RESULT,
    SNAPSHOT,
    TOKENS,
    PaidTrainingHarness,
)
from tests.support.scripted_installation import TRAINING_PRICE, ScriptedInstallation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.training import TrainingJob


CHARGE = TOKENS * TRAINING_PRICE


@pytest.fixture
def harness(tmp_path: Path, sqlite_database: Database) -> PaidTrainingHarness:
    return PaidTrainingHarness(ScriptedInstallation(tmp_path, sqlite_database))


@pytest.fixture
def any_harness(tmp_path: Path, database: Database) -> PaidTrainingHarness:
    """On SQLite and on PostgreSQL."""
    return PaidTrainingHarness(ScriptedInstallation(tmp_path, database))


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
    harness: PaidTrainingHarness,
    funds: tuple[int, int, int],
    harm: Callable[[PaidTrainingHarness], None] | None,
    error: type[DomainError],
) -> None:
    balance, cap, thawing = funds
    harness.installation.fund(balance, cap, thawing=thawing)
    if harm is not None:
        harm(harness)
    with pytest.raises(error):
        harness.create()
    assert (harness.training.list(), harness.reserved) == ([], 0)


def test_the_refusal_says_what_is_missing(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(MOST - 7)
    with pytest.raises(PaymentRequired) as refusal:
        harness.create()
    assert refusal.value.details["missing"] == {
        "balance": AMOUNT.render(7),
        "authorisation": AMOUNT.render(7),
    }
    assert refusal.value.details["required"] == AMOUNT.render(MOST)


def test_more_tokens_than_a_receipt_holds_are_refused_by_the_option(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(1 << 60)
    many = {"max_length": 8192, "batch_size": 8}
    with pytest.raises(InvalidConfig) as refusal:
        harness.create(**many, steps=100_000)
    assert refusal.value.param == "steps"
    harness.create(**many, steps=50_000)


def test_an_epoch_of_more_tokens_than_a_receipt_holds_is_refused_whatever_the_steps(
    harness: PaidTrainingHarness,
) -> None:
    harness.installation.record_rows(600_000)
    with pytest.raises(InvalidConfig, match="lower max_length") as refusal:
        harness.create(max_length=8192, batch_size=8, steps=1)
    assert refusal.value.param == "max_length"


def test_a_voucher_covers_a_job_as_a_session_key_does(harness: PaidTrainingHarness) -> None:
    installation = harness.installation
    installation.fund(MOST, cap=0)
    voucher = SignedVoucher(Voucher(installation.channel, 0, MOST), "0x" + "00" * 65)
    with installation.begin() as tx:
        tx.channels.put_voucher(ClientVoucher(voucher, installation.payer.account))
    assert harness.create().payment is not None
    with pytest.raises(PaymentRequired):
        harness.create()


def test_the_maximum_cost_stays_reserved_until_the_job_ends(
    any_harness: PaidTrainingHarness,
) -> None:
    harness, installation = any_harness, any_harness.installation
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
    any_harness: PaidTrainingHarness, end: Callable[[PaidTrainingHarness, TrainingJob], None]
) -> None:
    harness = any_harness
    harness.installation.fund(MOST)
    job = harness.create()
    end(harness, job)
    assert harness.training.get(job.id).is_over
    assert (harness.reserved, harness.receipts) == (0, [])
    harness.create()  # the same money again


def test_a_published_adapter_costs_its_charged_tokens(any_harness: PaidTrainingHarness) -> None:
    harness, installation = any_harness, any_harness.installation
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


def test_the_receipt_is_for_this_job_and_this_adapter(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(MOST)
    job = harness.publish(harness.create())
    [stored] = harness.receipts
    salt, receipt = to_bytes(stored.salt), stored.signed.receipt
    assert receipt.request_hash == salted_hash(salt, request_bytes(job))
    assert receipt.response_hash == salted_hash(salt, response_bytes([RESULT.adapter_digest]))


def test_receipts_of_jobs_and_answers_stand_on_one_line(harness: PaidTrainingHarness) -> None:
    """Each begins where the one before ended, in the order in which they end."""
    installation = harness.installation
    installation.fund(4 * MOST)
    payer = Payer(installation.payer.account)
    first, second = harness.create(), harness.create()
    answering = installation.admission.reserve(payer, 1000)
    harness.publish(second)
    bill_of = _bill_of(harness)
    installation.admission.charge(payer, answering, bill_of(900))
    harness.publish(first)
    lines = [(s.signed.receipt.cumulative, s.signed.receipt.charge) for s in reversed(harness.receipts)]
    assert lines == [(642, 642), (1542, 900), (2184, 642)]


def _bill_of(harness: PaidTrainingHarness) -> Callable[[int], Any]:
    from tests.unit.backend.services.channels.test_admission import bill

    return lambda charge: bill(harness.installation, charge)


def test_publishing_twice_charges_once(any_harness: PaidTrainingHarness) -> None:
    """A worker that was killed right after its transaction, and one that took over from it."""
    harness = any_harness
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
    harness: PaidTrainingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.installation.fund(MOST)
    job = harness.create()
    harness.train(job)
    held = harness.lease(job, Step.PUBLISH)

    def dies(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("backend.services.train.leases.finish", dies)
        with pytest.raises(KeyboardInterrupt):
            harness.leases.complete_publication(held, CID)
    assert (harness.receipts, harness.reserved) == ([], MOST)
    assert harness.training.get(job.id).state is JobState.RUNNING
    harness.leases.complete_publication(held, CID)
    assert (len(harness.receipts), harness.reserved) == (1, 0)


def test_an_adapter_that_was_lost_and_trained_again_is_paid_for_once(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(MOST)
    job = harness.create()
    harness.train(job, num_tokens=99)
    for _ in range(5):
        harness.leases.retry_without_adapter(harness.lease(job, Step.PUBLISH))
        harness.installation.clock.pass_seconds(60)
    harness.leases.complete_training(harness.lease(job, Step.TRAIN), RESULT)
    harness.leases.complete_publication(harness.lease(job, Step.PUBLISH), CID)
    assert [stored.signed.receipt.prompt_tokens for stored in harness.receipts] == [TOKENS]


@pytest.mark.parametrize("thawing", [MOST, 1])
def test_thawing_money_does_not_pay_for_training(harness: PaidTrainingHarness, thawing: int) -> None:
    harness.installation.fund(MOST)
    job = harness.create()
    harness.leases.complete_validation(
        harness.lease(job, Step.VALIDATE), Dataset(some_hash("rows"), NUM_ROWS, 3)
    )
    harness.installation.fund(MOST, thawing=thawing)
    assert harness.leases.acquire(job.id, Step.TRAIN) is None
    found = harness.training.get(job.id)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error["code"] == "payment_withdrawn"
    assert found.error["missing"] == {"balance": AMOUNT.render(thawing)}
    assert (harness.reserved, harness.receipts) == (0, [])


def test_money_that_starts_to_thaw_during_training_still_pays_for_it(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(MOST)
    job = harness.create()
    harness.train(job)
    harness.installation.fund(MOST, thawing=MOST)
    harness.leases.complete_publication(harness.lease(job, Step.PUBLISH), CID)
    assert len(harness.receipts) == 1


def withdrawn(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(CHARGE - 1, MOST)


def thawed(harness: PaidTrainingHarness) -> None:
    """The payer can withdraw it before the receipt is settled."""
    now = int(harness.installation.clock().timestamp())
    harness.installation.fund(MOST, thawing=MOST - CHARGE + 1, thawed_at=now)


@pytest.mark.parametrize("take", [withdrawn, thawed])
def test_an_adapter_whose_charge_left_during_training_is_not_published(
    harness: PaidTrainingHarness, take: Callable[[PaidTrainingHarness], None]
) -> None:
    harness.installation.fund(MOST)
    job = harness.create()
    harness.train(job)
    take(harness)
    assert harness.leases.acquire(job.id, Step.PUBLISH) is None
    found = harness.training.get(job.id)
    assert (found.state, found.cid) == (JobState.FAILED, None)
    assert found.error is not None
    assert found.error["code"] == "payment_withdrawn"
    assert found.error["missing"] == {"balance": AMOUNT.render(1)}
    assert (harness.reserved, harness.receipts) == (0, [])


@pytest.mark.parametrize("take", [withdrawn, thawed])
def test_money_that_leaves_while_the_adapter_is_published_changes_nothing_until_the_job_fails(
    any_harness: PaidTrainingHarness, take: Callable[[PaidTrainingHarness], None]
) -> None:
    harness = any_harness
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


def test_of_what_was_reserved_only_the_charge_must_be_left(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(MOST)
    job = harness.create()
    harness.train(job)
    harness.installation.fund(CHARGE, MOST)
    harness.leases.complete_publication(harness.lease(job, Step.PUBLISH), CID)
    assert len(harness.receipts) == 1


@pytest.mark.parametrize("options", [{}, {"steps": 100}], ids=["epochs", "steps"])
def test_a_job_with_more_rows_than_were_recorded_is_not_trained(
    harness: PaidTrainingHarness, options: dict[str, Any]
) -> None:
    """Whether or not more rows raise the most that it may cost."""
    harness.installation.fund(100 * MOST)
    held = harness.lease(harness.create(**options), Step.VALIDATE)
    with pytest.raises(RowsDiffer, match="21 rows"):
        harness.leases.complete_validation(held, Dataset(some_hash("rows"), NUM_ROWS + 1, 3))
    harness.leases.complete_validation(held, Dataset(some_hash("rows"), NUM_ROWS, 3))


def test_a_job_of_one_step_reserves_an_epoch(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(MOST - 1)
    with pytest.raises(InsufficientBalance):
        harness.create(steps=1)


def test_a_job_that_reserved_less_than_an_epoch_costs_at_most_that(
    harness: PaidTrainingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier releases reserved the trained tokens alone."""
    harness.installation.fund(MOST)
    with monkeypatch.context() as patched:
        patched.setattr("backend.services.train.payments.max_charged_tokens", lambda *_: 200)
        job = harness.create(steps=1)
    assert harness.reserved == 200 * TRAINING_PRICE
    harness.publish(job)
    [stored] = harness.receipts
    receipt = stored.signed.receipt
    assert (receipt.prompt_tokens, receipt.charge) == (200, 200 * TRAINING_PRICE)
    assert harness.reserved == 0


def test_an_adapter_that_an_earlier_release_trained_costs_its_trained_tokens(
    harness: PaidTrainingHarness,
) -> None:
    harness.installation.fund(MOST)
    job = harness.create()
    harness.train(job)
    metrics = {name: value for name, value in RESULT.metrics.items() if name != "num_charged_tokens"}
    with harness.installation.begin() as tx:
        trained = tx.training.locked(job.id)
        assert trained is not None
        tx.training.save(replace(trained, result=replace(RESULT, metrics=metrics)))
    harness.leases.complete_publication(harness.lease(job, Step.PUBLISH), CID)
    assert [stored.signed.receipt.prompt_tokens for stored in harness.receipts] == [99]


def test_another_price_is_for_later_jobs_only(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(100 * MOST)
    dearer = harness.selling_at(50)
    job = harness.create()
    harness.installation.view.register(
        training_record(harness.installation.operator, some_hash("base model"), 50)
    )
    later = harness.training_with(dearer).create(job.creator, SNAPSHOT, CONFIG)
    assert later.payment is not None
    assert later.payment.max_charge == 25 * MOST
    harness.leases = harness.leases_with(dearer)
    assert harness.publish(job).payment is not None
    assert harness.receipts[0].signed.receipt.charge == TOKENS * TRAINING_PRICE


def test_free_training_needs_no_channel_and_gives_no_receipt(harness: PaidTrainingHarness) -> None:
    free = harness.selling_at(0)
    job = harness.training_with(free).create(harness.installation.payer.account, SNAPSHOT, CONFIG)
    harness.leases = harness.leases_with(free)
    assert (job.payment, free.price(harness.installation.base.digest)) == (None, 0)
    assert harness.publish(job).state is JobState.SUCCEEDED
    assert (harness.reserved, harness.receipts) == (0, [])


def test_a_job_that_was_free_stays_free(harness: PaidTrainingHarness) -> None:
    job = harness.training_with(harness.selling_at(0)).create(some_account("creator"), SNAPSHOT, CONFIG)
    harness.publish(job)
    assert harness.receipts == []


def test_a_takedown_does_not_wait_for_jobs(harness: PaidTrainingHarness) -> None:
    """It waits for the answers under way, which end within minutes."""
    harness.installation.fund(MOST + 10)
    harness.create()
    answering = harness.installation.admission.reserve(Payer(harness.installation.payer.account), 10)
    with harness.installation.read() as tx:
        assert tx.channels.reserved(harness.installation.clock()) == {answering.id}


def test_jobs_and_answers_at_once_never_get_more_than_there_is(any_harness: PaidTrainingHarness) -> None:
    """Twelve jobs and twelve answers of the same price race for money that is enough for seven of them."""
    harness, installation = any_harness, any_harness.installation
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


def test_the_bound_is_what_is_kept(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(1 << 40)
    for options in ({"epochs": 3}, {"steps": 7}, {"packing": True, "max_length": 100}, {"batch_size": 64}):
        job = harness.create(**options)
        assert job.payment is not None
        assert job.payment.max_tokens == max_charged_tokens(job.config, NUM_ROWS)


def test_requests_with_one_key_at_once_create_and_reserve_one_job(any_harness: PaidTrainingHarness) -> None:
    any_harness.installation.fund(MOST)
    at_once = threading.Barrier(4)

    def create(_: int) -> TrainingJob:
        training = any_harness.training_with(any_harness.installation.payments)
        at_once.wait()
        return training.create(any_harness.installation.payer.account, SNAPSHOT, CONFIG, "once")

    with ThreadPoolExecutor(4) as threads:
        jobs = list(threads.map(create, range(4)))
    assert len({job.id for job in jobs}) == len(any_harness.training.list()) == 1
    assert jobs[0].payment is not None
    assert any_harness.reserved == jobs[0].payment.max_charge
    events = any_harness.training.events(jobs[0].id)
    assert [event.kind for event in events] == ["state"]


def test_a_repeated_request_gets_its_job_as_it_is_now(harness: PaidTrainingHarness) -> None:
    harness.installation.fund(2 * MOST)
    create, payer = harness.training.create, harness.installation.payer.account
    job = create(payer, SNAPSHOT, CONFIG, "once")
    harness.training.cancel(job.id, payer)
    assert create(payer, SNAPSHOT, CONFIG, "once").state is JobState.CANCELLED
    assert create(payer, SNAPSHOT, CONFIG, "twice").id != job.id
    with pytest.raises(IdempotencyKeyReused, match=f"was used for {job.id}"):
        create(payer, SNAPSHOT, CONFIG | {"epochs": 2}, "once")
    assert len(harness.training.list()) == 2


def test_a_key_whose_job_was_refused_can_be_used(harness: PaidTrainingHarness) -> None:
    def create() -> None:
        harness.training.create(harness.installation.payer.account, SNAPSHOT, CONFIG, "once")

    harness.installation.fund(1)
    with pytest.raises(PaymentRequired):
        create()
    harness.installation.fund(10**9)
    create()
    assert len(harness.training.list()) == 1
