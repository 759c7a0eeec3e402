"""What a job costs, from the money that is kept for it to its receipt."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import recover
from backend.domain.errors import DomainError, PaymentRequired
from backend.domain.hashing import response_bytes, salted_hash, to_bytes, version_id
from backend.domain.rules import Rules
from backend.domain.training import Dataset, JobState, Step
from backend.domain.training_payment import max_trained_tokens, request_bytes, training_record
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.channels.admission import Payer
from backend.services.channels.balance import ViewStale
from backend.services.channels.ledger import InsufficientAuthorisation, InsufficientBalance
from backend.services.train.leases import LeaseLost, RowsDiffer
from backend.services.train.options import InvalidConfig
from backend.services.train.payments import TrainingNotOffered
from tests.support.market import some_account, some_hash
from tests.support.serving import TRAINING_PRICE, Installation
from tests.support.training_house import CID, CONFIG, MOST, NUM_ROWS, RESULT, SNAPSHOT, TOKENS, House

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.training import TrainingJob


@pytest.fixture
def house(tmp_path: Path, sqlite_database: Database) -> House:
    return House(Installation(tmp_path, sqlite_database))


@pytest.fixture
def any_house(tmp_path: Path, database: Database) -> House:
    """On SQLite and on PostgreSQL."""
    return House(Installation(tmp_path, database))


def unregistered(house: House) -> None:
    house.installation.view.versions_list.pop()


def stale(house: House) -> None:
    house.installation.view.lag_seconds = 61


def revoked(house: House) -> None:
    house.installation.revoke_session()


REFUSALS: list[tuple[str, tuple[int, int, int], Callable[[House], None] | None, type[DomainError]]] = [
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
    house: House,
    funds: tuple[int, int, int],
    harm: Callable[[House], None] | None,
    error: type[DomainError],
) -> None:
    balance, cap, thawing = funds
    house.installation.fund(balance, cap, thawing=thawing)
    if harm is not None:
        harm(house)
    with pytest.raises(error):
        house.create()
    assert (house.training.list(), house.reserved) == ([], 0)


def test_the_refusal_says_what_is_missing(house: House) -> None:
    house.installation.fund(MOST - 7)
    with pytest.raises(PaymentRequired) as refusal:
        house.create()
    assert refusal.value.details["missing"] == {"balance": "7", "authorisation": "7"}
    assert refusal.value.details["required"] == str(MOST)


def test_more_tokens_than_a_receipt_holds_are_refused_by_the_option(house: House) -> None:
    house.installation.fund(1 << 60)
    many = {"max_length": 8192, "batch_size": 8}
    with pytest.raises(InvalidConfig) as refusal:
        house.create(**many, steps=100_000)
    assert refusal.value.param == "steps"
    house.create(**many, steps=50_000)


def test_a_voucher_covers_a_job_as_a_session_key_does(house: House) -> None:
    installation = house.installation
    installation.fund(MOST, cap=0)
    voucher = SignedVoucher(Voucher(installation.channel, 0, MOST), "0x" + "00" * 65)
    with installation.begin() as tx:
        tx.channels.put_voucher(ClientVoucher(voucher, installation.payer.account))
    assert house.create().payment is not None
    with pytest.raises(PaymentRequired):
        house.create()


def test_what_a_job_may_cost_is_kept_until_it_is_over_however_long_that_takes(any_house: House) -> None:
    house, installation = any_house, any_house.installation
    installation.fund(2 * MOST)
    job = house.create()
    assert job.payment is not None
    assert (job.payment.price, job.payment.max_charge, house.reserved) == (TRAINING_PRICE, MOST, MOST)
    assert house.training.get(job.id) == job
    installation.clock.pass_seconds(20 * 3600)
    payer = Payer(installation.payer.account)
    with pytest.raises(PaymentRequired):
        installation.admission.reserve(payer, MOST + 1)
    installation.admission.release(installation.admission.reserve(payer, MOST))
    assert house.reserved == MOST


def cancelled(house: House, job: TrainingJob) -> None:
    house.training.cancel(job.id, job.creator)
    house.training.cancel(job.id, job.creator)


def failed(house: House, job: TrainingJob) -> None:
    house.leases.fail(house.taken(job, Step.VALIDATE), {"code": "unusable_rows", "message": "none"})


def cancelled_when_it_was_trained(house: House, job: TrainingJob) -> None:
    house.trained(job)
    held = house.taken(job, Step.PUBLISH)
    house.training.cancel(job.id, job.creator)
    with pytest.raises(LeaseLost):
        house.leases.complete_publication(held, CID)


def given_up(house: House, job: TrainingJob) -> None:
    for _ in range(5):
        house.taken(job, Step.VALIDATE)
        house.installation.clock.pass_seconds(31)
    assert house.leases.acquire(job.id, Step.VALIDATE) is None


@pytest.mark.parametrize("end", [cancelled, failed, cancelled_when_it_was_trained, given_up])
def test_a_job_without_an_adapter_costs_nothing(
    any_house: House, end: Callable[[House, TrainingJob], None]
) -> None:
    house = any_house
    house.installation.fund(MOST)
    job = house.create()
    end(house, job)
    assert house.training.get(job.id).is_over
    assert (house.reserved, house.receipts) == (0, [])
    house.create()  # the same money again


def test_a_published_adapter_costs_the_tokens_that_were_trained(any_house: House) -> None:
    house, installation = any_house, any_house.installation
    installation.fund(MOST)
    job = house.published(house.create())
    assert job.state is JobState.SUCCEEDED
    assert house.training.get(job.id) == job
    assert job.payment is not None
    [stored] = house.receipts
    receipt = stored.signed.receipt
    assert stored.id == job.payment.receipt_id
    assert (receipt.prompt_tokens, receipt.completion_tokens) == (TOKENS, 0)
    assert receipt.charge == receipt.cumulative == TOKENS * TRAINING_PRICE
    assert [part.version_id for part in stored.signed.slices] == [version_id(installation.training_record)]
    assert Rules(installation.view).charges(stored.signed) == (receipt.charge,)  # type: ignore[arg-type]
    signer = recover(installation.domain.receipt_digest(receipt), stored.signed.signature)
    assert signer == installation.receipt_key.account
    assert house.reserved == 0
    [event] = [event for event in house.training.events(job.id) if event.kind == "charged"]
    assert event.data == {"receipt_id": stored.id, "tokens": TOKENS, "charge": str(receipt.charge)}


def test_the_receipt_is_for_this_job_and_this_adapter(house: House) -> None:
    house.installation.fund(MOST)
    job = house.published(house.create())
    [stored] = house.receipts
    salt, receipt = to_bytes(stored.salt), stored.signed.receipt
    assert receipt.request_hash == salted_hash(salt, request_bytes(job))
    assert receipt.response_hash == salted_hash(salt, response_bytes([RESULT.adapter_digest]))


def test_receipts_of_jobs_and_answers_stand_on_one_line(house: House) -> None:
    """Each begins where the one before ended, in the order in which they end."""
    installation = house.installation
    installation.fund(4 * MOST)
    payer = Payer(installation.payer.account)
    first, second = house.create(), house.create()
    answering = installation.admission.reserve(payer, 1000)
    house.published(second)
    bill_of = _bill_of(house)
    installation.admission.charge(payer, answering, bill_of(900))
    house.published(first)
    lines = [(s.signed.receipt.cumulative, s.signed.receipt.charge) for s in reversed(house.receipts)]
    assert lines == [(642, 642), (1542, 900), (2184, 642)]


def _bill_of(house: House) -> Callable[[int], Any]:
    from tests.unit.backend.services.channels.test_admission import bill

    return lambda charge: bill(house.installation, charge)


def test_publishing_twice_charges_once(any_house: House) -> None:
    """A worker that was killed right after its transaction, and one that took over from it."""
    house = any_house
    house.installation.fund(2 * MOST)
    job = house.create()
    house.trained(job)
    first = house.taken(job, Step.PUBLISH)
    house.installation.clock.pass_seconds(31)
    second = house.taken(job, Step.PUBLISH)
    with pytest.raises(LeaseLost):
        house.leases.complete_publication(first, CID)
    house.leases.complete_publication(second, CID)
    with pytest.raises(LeaseLost):
        house.leases.complete_publication(second, CID)
    assert house.leases.acquire(job.id, Step.PUBLISH) is None
    assert len(house.receipts) == 1


def test_a_transaction_that_dies_charges_nothing_and_the_next_one_all(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.installation.fund(MOST)
    job = house.create()
    house.trained(job)
    held = house.taken(job, Step.PUBLISH)

    def dies(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("backend.services.train.leases.finish", dies)
        with pytest.raises(KeyboardInterrupt):
            house.leases.complete_publication(held, CID)
    assert (house.receipts, house.reserved) == ([], MOST)
    assert house.training.get(job.id).state is JobState.RUNNING
    house.leases.complete_publication(held, CID)
    assert (len(house.receipts), house.reserved) == (1, 0)


def test_an_adapter_that_was_lost_and_trained_again_is_paid_for_once(house: House) -> None:
    house.installation.fund(MOST)
    job = house.create()
    house.trained(job, num_tokens=99)
    for _ in range(5):
        house.leases.retry_without_adapter(house.taken(job, Step.PUBLISH))
        house.installation.clock.pass_seconds(60)
    house.leases.complete_training(house.taken(job, Step.TRAIN), RESULT)
    house.leases.complete_publication(house.taken(job, Step.PUBLISH), CID)
    assert [stored.signed.receipt.prompt_tokens for stored in house.receipts] == [TOKENS]


@pytest.mark.parametrize("thawing", [MOST, 1])
def test_nobody_trains_for_money_that_is_on_its_way_out(house: House, thawing: int) -> None:
    house.installation.fund(MOST)
    job = house.create()
    house.leases.complete_validation(house.taken(job, Step.VALIDATE), Dataset(some_hash("rows"), NUM_ROWS, 3))
    house.installation.fund(MOST, thawing=thawing)
    assert house.leases.acquire(job.id, Step.TRAIN) is None
    found = house.training.get(job.id)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert (found.error["code"], found.error["missing"]) == ("payment_withdrawn", {"balance": str(thawing)})
    assert (house.reserved, house.receipts) == (0, [])


def test_what_begins_to_thaw_while_a_job_trains_still_pays_for_it(house: House) -> None:
    house.installation.fund(MOST)
    job = house.create()
    house.trained(job)
    house.installation.fund(MOST, thawing=MOST)
    house.leases.complete_publication(house.taken(job, Step.PUBLISH), CID)
    assert len(house.receipts) == 1


def test_a_job_with_more_rows_than_were_recorded_is_not_trained(house: House) -> None:
    house.installation.fund(MOST)
    held = house.taken(house.create(), Step.VALIDATE)
    with pytest.raises(RowsDiffer, match="21 rows"):
        house.leases.complete_validation(held, Dataset(some_hash("rows"), NUM_ROWS + 1, 3))
    house.leases.complete_validation(held, Dataset(some_hash("rows"), NUM_ROWS, 3))


def test_another_price_is_for_later_jobs_only(house: House) -> None:
    house.installation.fund(100 * MOST)
    dearer = house.selling_at(50)
    job = house.create()
    house.installation.view.register(
        training_record(house.installation.operator, some_hash("base model"), 50)
    )
    later = house.training_with(dearer).create(job.creator, SNAPSHOT, CONFIG)
    assert later.payment is not None
    assert later.payment.max_charge == 25 * MOST
    house.leases = house.leases_with(dearer)
    assert house.published(job).payment is not None
    assert house.receipts[0].signed.receipt.charge == TOKENS * TRAINING_PRICE


def test_free_training_needs_no_channel_and_gives_no_receipt(house: House) -> None:
    free = house.selling_at(0)
    job = house.training_with(free).create(house.installation.payer.account, SNAPSHOT, CONFIG)
    house.leases = house.leases_with(free)
    assert (job.payment, free.price) == (None, 0)
    assert house.published(job).state is JobState.SUCCEEDED
    assert (house.reserved, house.receipts) == (0, [])


def test_a_job_that_was_free_stays_free(house: House) -> None:
    job = house.training_with(house.selling_at(0)).create(some_account("creator"), SNAPSHOT, CONFIG)
    house.published(job)
    assert house.receipts == []


def test_a_takedown_does_not_wait_for_jobs(house: House) -> None:
    """It waits for the answers under way, which end within minutes."""
    house.installation.fund(MOST + 10)
    house.create()
    answering = house.installation.admission.reserve(Payer(house.installation.payer.account), 10)
    with house.installation.read() as tx:
        assert tx.channels.reserved(house.installation.clock()) == {answering.id}


def test_jobs_and_answers_at_once_never_get_more_than_there_is(any_house: House) -> None:
    """Twelve jobs and twelve answers of the same price race for money that is enough for seven of them."""
    house, installation = any_house, any_house.installation
    installation.fund(7 * MOST + MOST // 2)
    start = threading.Barrier(24)
    payer = Payer(installation.payer.account)

    def ask(number: int) -> bool:
        start.wait()
        try:
            if number % 2:
                house.create()
            else:
                installation.admission.reserve(payer, MOST)
        except PaymentRequired:
            return False
        return True

    with ThreadPoolExecutor(24) as threads:
        admitted = sum(threads.map(ask, range(24)))
    assert (admitted, house.reserved) == (7, 7 * MOST)
    jobs = house.training.list()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(house.published, jobs))
    assert len(house.receipts) == len(jobs)
    assert max((s.signed.receipt.cumulative for s in house.receipts), default=0) == len(jobs) * 642


def test_the_bound_is_what_is_kept(house: House) -> None:
    house.installation.fund(1 << 40)
    for options in ({"epochs": 3}, {"steps": 7}, {"packing": True, "max_length": 100}, {"batch_size": 64}):
        job = house.create(**options)
        assert job.payment is not None
        assert job.payment.max_tokens == max_trained_tokens(job.config, NUM_ROWS)
