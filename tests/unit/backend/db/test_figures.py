"""Figures of money and pending work, computed by the database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.figures import Pending
from backend.domain.hashing import receipt_id
from backend.domain.serving import NewReceipt, Reservation, Waiver
from tests.support.chain_events import ALICE, BOB, OPERATOR, committed, demanded, refunded, take_in, voided
from tests.support.market import Market, some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.figures import Figures

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = some_account("receipt key")


def read(database: Database) -> Figures:
    with database.read() as tx:
        return tx.figures(OPERATOR, NOW)


def batch(number: int, name: int, committed_at: int, total: int) -> tuple[str, str, dict[str, Any]]:
    contract, event, args = committed(number, name)
    header = {
        "number": number,
        "committedAt": committed_at,
        "finalAt": committed_at + 100,
        "total": str(total),
    }
    return contract, event, args | {"header": header}


def test_an_empty_database_has_nothing_pending(database: Database) -> None:
    found = read(database)
    assert (found.unsettled, found.unsettled_units, found.reserved_units) == (Pending(0), 0, 0)
    assert (found.open_batches, found.float_units, found.next_final_at) == (0, 0, None)
    assert (found.outbox, found.jobs, found.indexed_block) == (Pending(0), {}, None)
    assert set(found.transactions) == {"queued", "sent", "mined"}


def test_unsettled_receipts_of_retired_keys_are_counted(database: Database) -> None:
    signed = Market().serve()
    number = receipt_id(signed.receipt)
    with database.begin() as tx:
        tx.receipts.add(
            NewReceipt(number, OPERATOR, some_account("payer"), signed, KEY, some_hash("salt"), None)
        )
    key = {"operator": OPERATOR, "key": KEY}
    with database.begin() as tx:
        take_in(tx, ("OperatorRegistry", "ReceiptKeyAdded", key))
    assert read(database).receipts_to_sign == 0
    with database.begin() as tx:
        take_in(tx, ("OperatorRegistry", "ReceiptKeyRetired", key | {"retiredAt": 1}))
    assert read(database).receipts_to_sign == 1
    free = replace(signed, receipt=replace(signed.receipt, charge=0))
    with database.begin() as tx:
        tx.receipts.add(
            NewReceipt(receipt_id(free.receipt), OPERATOR, ALICE, free, KEY, some_hash("salt"), None)
        )
    assert read(database).receipts_to_sign == 1
    with database.begin() as tx:
        tx.receipts.assign(OPERATOR, 1, [number])
    assert read(database).receipts_to_sign == 0


def test_receipts_count_until_they_are_in_a_batch_and_their_charges_add_up_exactly(
    database: Database,
) -> None:
    market = Market()
    served = [market.serve(market.channels[0]) for _ in range(3)]
    huge = replace(served[0], receipt=replace(served[0].receipt, charge=1 << 120, served_at=5))
    with database.begin() as tx:
        for signed in (huge, *served[1:]):
            number = receipt_id(signed.receipt)
            tx.receipts.add(
                NewReceipt(
                    number,
                    OPERATOR,
                    some_account("payer"),
                    signed,
                    KEY,
                    some_hash("salt"),
                    None,
                )
            )
    charges = [signed.receipt.charge for signed in served[1:]]
    found = read(database)
    assert found.unsettled == Pending(3, 5)
    assert found.unsettled_units == (1 << 120) + sum(charges)
    with database.begin() as tx:
        tx.receipts.assign(OPERATOR, 1, [receipt_id(huge.receipt)])
    assert read(database).unsettled_units == sum(charges)


def test_charges_above_their_channels_balance_are_unfunded_until_it_covers_them(database: Database) -> None:
    """Withdrawals leave fractions of the token's unit, and a payer may leave more."""
    market = Market()
    signed = market.serve(market.channels[0])
    channel, charge = {"channelId": signed.receipt.channel_id}, signed.receipt.charge
    parties = {"payer": ALICE, "operator": OPERATOR, "collector": BOB}
    number = receipt_id(signed.receipt)
    with database.begin() as tx:
        tx.receipts.add(NewReceipt(number, OPERATOR, ALICE, signed, KEY, some_hash("salt"), None))
        take_in(tx, ("PaymentVault", "ChannelOpened", channel | parties))
    found = read(database)
    assert (found.unsettled, found.unsettled_units, found.unfunded_units) == (Pending(0), 0, charge)
    with database.read() as tx:
        assert tx.receipts.backlogs(OPERATOR) == []
    with database.begin() as tx:
        take_in(tx, ("PaymentVault", "Deposited", channel | {"amount": charge - 1}))
    assert read(database).unfunded_units == charge
    with database.begin() as tx:
        take_in(tx, ("PaymentVault", "Deposited", channel | {"amount": 1}))
    found = read(database)
    assert (found.unsettled.count, found.unsettled_units, found.unfunded_units) == (1, charge, 0)
    with database.read() as tx:
        assert [backlog.amount for backlog in tx.receipts.backlogs(OPERATOR)] == [charge]


def test_charges_behind_one_above_the_balance_are_unfunded_too(database: Database) -> None:
    """Receipts of a channel are collected in their order."""
    market = Market()
    served = [market.serve(market.channels[0]) for _ in range(4)]
    ends = (2, 10, 11, 12)
    channel = {"channelId": served[0].receipt.channel_id}
    parties = {"payer": ALICE, "operator": OPERATOR, "collector": BOB}
    with database.begin() as tx:
        take_in(tx, ("PaymentVault", "ChannelOpened", channel | parties))
        take_in(tx, ("PaymentVault", "Deposited", channel | {"amount": 5}))
        for start, end, signed in zip((0, *ends), ends, served, strict=False):
            changed = replace(signed, receipt=replace(signed.receipt, cumulative=end, charge=end - start))
            number = receipt_id(changed.receipt)
            tx.receipts.add(NewReceipt(number, OPERATOR, ALICE, changed, KEY, some_hash("salt"), None))
    found = read(database)
    assert (found.unsettled.count, found.unsettled_units, found.unfunded_units) == (1, 2, 10)
    with database.read() as tx:
        assert [backlog.amount for backlog in tx.receipts.backlogs(OPERATOR)] == [2]
    with database.begin() as tx:  # behind the large one none is collected, convicted or not
        tx.channels.demand_waivers({market.channels[0]: Waiver(10, 11)})
    found = read(database)
    assert (found.unsettled.count, found.unsettled_units, found.unfunded_units) == (1, 2, 9)
    with database.begin() as tx:  # once the large one is waived, those behind it can be collected
        tx.channels.demand_waivers({market.channels[0]: Waiver(2, 10)})
    found = read(database)
    assert (found.unsettled.count, found.unsettled_units, found.unfunded_units) == (3, 4, 0)
    with database.read() as tx:
        assert [(each.num_receipts, each.amount) for each in tx.receipts.backlogs(OPERATOR)] == [(3, 4)]
    with database.begin() as tx:  # the payer leaves and waives nothing
        take_in(tx, ("PaymentVault", "Withdrawn", channel | {"payer": ALICE, "amount": 5}))
    found = read(database)
    assert (found.unsettled_units, found.unfunded_units) == (0, 4)
    with database.read() as tx:
        assert tx.receipts.backlogs(OPERATOR) == []


def test_reservations_count_until_they_expire(database: Database) -> None:
    channel = Market().channels[0]
    with database.begin() as tx:
        tx.channels.lock(channel)
        for amount, seconds in ((7, 1), (100, -1)):
            made = Reservation(f"{amount}", channel, None, amount, NOW + timedelta(seconds=seconds))
            tx.channels.add_reservations([made])
    assert read(database).reserved_units == 7


def test_batches_are_float_until_they_are_final_or_fall(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, *(batch(n, n, 1000 * n, 10**n) for n in (1, 2, 3, 4)))
        finalised = {"operator": OPERATOR, "number": 1, "batchHash": committed(1, 1)[2]["batchHash"]}
        take_in(tx, ("Settlement", "BatchFinalised", finalised | {"finalTotal": 5}), voided(4, 4, 4))
        take_in(tx, demanded(50, 2, 90), demanded(51, 3, 80))
    found = read(database)
    assert (found.open_batches, found.float_units, found.unrefunded_units) == (2, 1_100, 10**4)
    assert (found.newest_batch_at, found.next_final_at) == (3000, 2100)
    assert (found.open_demands, found.demand_deadline) == (2, 80)
    assert (found.indexed_block, found.indexed_at) == (3, 30)
    with database.begin() as tx:
        take_in(tx, refunded(4, 4))
    assert read(database).unrefunded_units == 0


def test_batches_that_fell_with_one_whose_number_is_final_now_are_no_float(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, *(batch(n, n, 1000 * n, 10**n) for n in (1, 2)), voided(1, 2, 1))
        take_in(tx, batch(1, 3, 3000, 10**3))
        finalised = {"operator": OPERATOR, "number": 1, "batchHash": committed(1, 3)[2]["batchHash"]}
        take_in(tx, ("Settlement", "BatchFinalised", finalised | {"finalTotal": 10**3}))
    assert (read(database).open_batches, read(database).float_units) == (0, 0)


def test_pending_messages_and_transactions_are_counted_with_their_age(database: Database) -> None:
    before = datetime.now(UTC).timestamp()
    with database.begin() as tx:
        first = tx.outbox.add("training.train", {}, "a")
        tx.outbox.add("training.train", {}, "b")
        tx.outbox.delivered(first)
        tx.transactions.enqueue(OPERATOR, "Settlement", "commit", [], "one")
        failed = tx.transactions.enqueue(OPERATOR, "Settlement", "commit", [1], "two")
        tx.transactions.mark_failed(failed, {"error": "Reverted"})
    found = read(database)
    assert found.outbox.count == 1
    assert (found.transactions["queued"].count, found.transactions["sent"].count) == (1, 0)
    for pending in (found.outbox, found.transactions["queued"]):
        assert pending.oldest_at is not None
        assert before - 1 <= pending.oldest_at <= datetime.now(UTC).timestamp()
