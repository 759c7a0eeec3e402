from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from backend.db.tables.transactions import TransactionRow
from backend.db.transactions import TransactionStore
from backend.domain.batch import MAX_RECEIPT_ENTRIES, Header
from backend.services.audit.auditor import WrongBatch
from backend.services.settle.pace import PATIENCE_SECONDS, Pace
from backend.services.settle.settler import Step
from tests.support.chain_view import batches_read
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import (
    CrashingDatabase,
    CrashingProxy,
    SimulatedCrash,
    assert_all_settled,
    settle,
    settle_batches,
    settled,
)
from tests.support.tracing import by_name, name_of, recorded

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account


def test_receipts_of_all_channels_become_one_batch(harness: SettlementHarness) -> None:
    receipts = [harness.serve() for _ in range(8)]
    progress = harness.settler().run_once()
    assert (progress.step, progress.number) == (Step.COMMITTING, 1)
    harness.mine()
    assert_all_settled(harness, receipts)
    assert len(harness.chain.committed) == 1


def test_a_batch_is_a_trace_linked_to_those_of_its_answers_and_its_commit_belongs_to_it(
    harness: SettlementHarness,
) -> None:
    answers = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2)]
    for answer in (*answers, None):
        signed = harness.market.serve(harness.market.channels[0])
        harness.store(signed, answer)
        harness.sign_voucher(signed.receipt.channel_id, signed.receipt.cumulative)
    with recorded() as spans:
        harness.settler().run_once(is_forced=True)
    batch = by_name(spans)["batch"]
    assert {f"{link.context.trace_id:032x}" for link in batch.links} == {answer[3:35] for answer in answers}
    assert batch.parent is None
    with harness.begin() as tx:
        (commit,) = tx.session.scalars(select(TransactionRow))
    assert (commit.trace or "")[:-3] == name_of(batch)[:-3]  # but for the flags


def test_nothing_is_committed_without_receipts(harness: SettlementHarness) -> None:
    assert harness.settler().run_once(is_forced=True).step is Step.IDLE
    assert harness.mine() == 0


def test_a_batch_waits_until_it_is_due_by_age_or_size(harness: SettlementHarness) -> None:
    harness.serve()
    harness.chain.time = harness.market.served_at + 3
    assert harness.settler().run_once().step is Step.IDLE
    assert harness.settler(pace=Pace(5, 1)).run_once().step is Step.COMMITTING


def test_a_batch_is_due_once_its_oldest_receipt_is_old_enough(harness: SettlementHarness) -> None:
    harness.serve()
    harness.chain.time = harness.market.served_at + 5
    assert harness.settler().run_once().step is Step.COMMITTING


def test_a_receipt_that_cannot_be_settled_does_not_make_a_batch_of_others_due(
    harness: SettlementHarness,
) -> None:
    stuck, other, _ = harness.market.channels
    harness.serve(stuck, is_paid=False)
    harness.chain.time = harness.market.served_at = harness.market.served_at + 100
    harness.serve(other)
    progress = harness.settler().run_once()
    assert (progress.step, list(progress.skipped)) == (Step.IDLE, [stuck])
    assert harness.settler(pace=Pace(5, 2)).run_once().step is Step.IDLE, "the batch is not full either"
    harness.chain.time += 5
    assert harness.settler().run_once().step is Step.COMMITTING


def test_channels_that_owe_little_wait_for_a_day(harness: SettlementHarness) -> None:
    receipts = sorted(map(harness.serve, harness.market.channels), key=lambda signed: signed.receipt.charge)
    settler = harness.settler(pace=Pace(5, 100, receipts[-1].receipt.charge), thaw_seconds=10**6)
    harness.chain.time = harness.market.served_at + 5
    settler.run_once()
    harness.mine()
    assert settled(harness) == receipts[-1:]
    harness.chain.time = harness.market.served_at + PATIENCE_SECONDS * 7 // 8 - 1
    assert settler.run_once().step is Step.IDLE
    harness.chain.time += 1
    settler.run_once()
    harness.mine()
    assert_all_settled(harness, receipts)


def test_channels_that_owe_little_share_batches(harness: SettlementHarness) -> None:
    settler = harness.settler(pace=Pace(5, 100, 1 << 127), thaw_seconds=10**6)
    began, rest, receipts = harness.market.served_at, PATIENCE_SECONDS // 8, []
    for number, channel in enumerate(harness.market.channels):
        harness.market.served_at = began + 100 * number
        receipts.append(harness.serve(channel))
    for after in (0, 100, 200, rest - 1, rest):
        harness.chain.time = began + PATIENCE_SECONDS - rest + after
        settler.run_once()
        harness.mine()
    assert [batch.header["receiptsCount"] for batch in harness.chain.committed] == [1, 2]
    assert_all_settled(harness, receipts)


def test_channels_that_owe_little_are_collected_long_before_their_thaw_ends(
    harness: SettlementHarness,
) -> None:
    harness.serve()
    settler = harness.settler(pace=Pace(5, 100, 1 << 127), thaw_seconds=800)
    harness.chain.time = harness.market.served_at + 87
    assert settler.run_once().step is Step.IDLE
    harness.chain.time += 1
    assert settler.run_once().step is Step.COMMITTING


def test_the_data_is_public_before_the_commit_is_queued(harness: SettlementHarness) -> None:
    harness.serve()
    blobs = CrashingProxy(harness.blobs, {"add_folder"}, 1)
    with pytest.raises(SimulatedCrash):
        harness.settler(blobs=blobs).run_once()
    assert harness.mine() == 0
    assert harness.unsettled() == 1


def test_one_batch_is_in_flight_at_a_time(harness: SettlementHarness) -> None:
    harness.serve()
    harness.settler().run_once(is_forced=True)
    late = harness.serve()
    assert harness.settler().run_once(is_forced=True).step is Step.WAITING
    harness.mine()
    assert harness.settler().run_once(is_forced=True).number == 2
    harness.mine()
    assert settled(harness)[-1] == late


def test_a_confirmed_commit_is_waited_for_until_it_is_indexed(harness: SettlementHarness) -> None:
    harness.serve()
    harness.settler().run_once(is_forced=True)
    harness.mine()
    harness.chain.is_lagging = True
    harness.chain.height -= 1
    harness.serve()
    assert harness.settler().run_once(is_forced=True).step is Step.WAITING


def test_a_batch_that_is_indexed_while_its_status_is_read_is_not_lost(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.serve()
    harness.settler().run_once(is_forced=True)
    harness.mine()
    chain, numbered_batch = harness.chain, harness.chain.numbered_batch
    chain.is_lagging, indexed_at, chain.height = True, chain.height, chain.height - 1

    def before_it_is_indexed(*of: Any) -> Any:
        found = numbered_batch(*of)
        chain.is_lagging, chain.height = False, indexed_at
        return found

    monkeypatch.setattr(chain, "numbered_batch", before_it_is_indexed)
    assert harness.settler().run_once(is_forced=True).step is Step.WAITING
    assert harness.unsettled() == 0


def test_of_two_settlers_that_commit_at_the_same_time_one_waits(
    tmp_path: Path, postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite their transactions exclude each other."""
    harness = SettlementHarness(tmp_path, database=postgres_database)
    receipts, faster, lock_lane = [harness.serve()], harness.settler(), TransactionStore.lock_lane
    steps: list[Step] = []

    def lock_after_the_faster(store: TransactionStore, lane: Account) -> None:
        monkeypatch.setattr(TransactionStore, "lock_lane", lock_lane)
        receipts.append(harness.serve())
        steps.append(faster.run_once(is_forced=True).step)
        lock_lane(store, lane)

    class Blobs(CrashingProxy):
        def add_folder(self, files: Any) -> Any:
            monkeypatch.setattr(TransactionStore, "lock_lane", lock_after_the_faster)
            return self._target.add_folder(files)

    slower = harness.settler(blobs=Blobs(harness.blobs, set(), 0))
    steps.append(slower.run_once(is_forced=True).step)
    assert steps == [Step.COMMITTING, Step.WAITING]
    assert harness.mine() == 1
    assert_all_settled(harness, receipts)


def test_a_batch_has_at_most_the_receipts_of_its_pace(harness: SettlementHarness) -> None:
    receipts = [harness.serve() for _ in range(7)]
    harness.settler(pace=Pace(5, 3)).run_once()
    harness.mine()
    assert len(settled(harness)) == 3
    settle(harness)
    assert_all_settled(harness, receipts)


def test_what_exceeds_a_batchs_entries_comes_with_the_next(harness: SettlementHarness) -> None:
    receipts = [harness.serve(channel) for channel in harness.market.channels]
    settler = harness.settler(pace=Pace(5, 100, entries=MAX_RECEIPT_ENTRIES))
    for number in range(1, len(receipts) + 1):
        assert settler.run_once().number == number
        harness.mine()
        assert len(settled(harness)) == number
    assert_all_settled(harness, receipts)


def test_batches_become_final_in_order_after_their_window(harness: SettlementHarness) -> None:
    for _ in range(2):
        harness.serve()
        harness.settler().run_once(is_forced=True)
        harness.mine()
    assert harness.settler().finalise() is None
    harness.chain.time += 60
    assert harness.settler().finalise() == 2
    assert harness.settler().finalise() == 2
    assert harness.mine() == 1
    assert harness.chain.final == 2
    assert harness.settler().finalise() is None


def test_a_second_finalisation_waits_for_the_pending_one(harness: SettlementHarness) -> None:
    for _ in range(2):
        harness.serve()
        harness.settler().run_once(is_forced=True)
        harness.mine()
        harness.chain.time += 40
    harness.chain.time += 1
    assert harness.settler().finalise() == 1
    harness.chain.time += 60
    assert harness.settler().finalise() == 2
    assert (harness.mine(), harness.chain.final) == (1, 1)
    assert harness.settler().finalise() == 2
    assert (harness.mine(), harness.chain.final) == (1, 2)
    with harness.begin() as tx:
        sent = tx.session.scalars(select(TransactionRow).filter_by(function="finalise")).all()
    assert [row.state for row in sent] == ["confirmed", "confirmed"]


def test_an_open_demand_or_a_time_for_proofs_holds_its_batch_and_later_ones(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        harness.serve()
        harness.settler().run_once(is_forced=True)
        harness.mine()
    harness.chain.time += 60
    second = harness.chain.committed[1].hash
    on_second = {"now": (1, 0, 0)}
    monkeypatch.setattr(
        harness.chain, "call", lambda _c, _f, found: on_second["now"] if found == second else (0, 0, 0)
    )
    assert harness.settler().finalise() == 1
    harness.mine()
    assert harness.settler().finalise() is None
    on_second["now"] = (0, 0, harness.chain.time + 1)
    assert harness.settler().finalise() is None
    harness.chain.time += 1
    assert harness.settler().finalise() == 3


def test_a_batch_is_not_finalised_before_its_block(harness: SettlementHarness) -> None:
    harness.serve()
    harness.settler().run_once(is_forced=True)
    harness.mine()
    (batch,) = harness.chain.committed
    header = {**batch.header, "finalBlock": harness.chain.height + 1}
    moved = replace(batch, header=header, hash=Header.from_chain(header).hash)
    harness.chain.committed[0] = moved
    harness.chain.time += 60
    assert harness.settler().finalise() is None
    harness.chain.height += 1
    assert harness.settler().finalise() == 1


def test_a_commit_from_elsewhere_is_followed_and_built_upon(
    harness: SettlementHarness, tmp_path: Path
) -> None:
    """The operator's other installation, with its own database, settles the same chain."""
    ours = harness.serve(harness.market.channels[0])
    harness.settler().run_once(is_forced=True)
    (tmp_path / "other").mkdir()
    other = SettlementHarness(tmp_path / "other")
    other.chain, other.market, other.blobs = harness.chain, harness.market, harness.blobs
    theirs = other.serve(harness.market.channels[1])
    other.settler().run_once(is_forced=True)
    assert other.mine() == 1
    assert harness.mine() == 0
    settle(harness)
    assert settled(harness) == [theirs, ours]
    other.database.close()


def test_of_two_settlers_at_the_same_point_one_commits(harness: SettlementHarness) -> None:
    receipts = [harness.serve()]

    class CommitsDuringBuild:
        def __getattr__(self, name: str) -> Any:
            if name == "add_folder":
                receipts.append(harness.serve())
                harness.settler().run_once(is_forced=True)
            return getattr(harness.blobs, name)

    assert harness.settler(blobs=CommitsDuringBuild()).run_once(is_forced=True).step is Step.WAITING
    assert harness.mine() == 1
    assert_all_settled(harness, receipts)


def test_receipts_of_all_voided_batches_are_settled_again(harness: SettlementHarness) -> None:
    receipts = []
    for _ in range(3):
        receipts.append(harness.serve())
        harness.settler().run_once(is_forced=True)
        harness.mine()
    harness.chain.convict(2)
    settle(harness)
    assert_all_settled(harness, receipts)
    assert [b.number for b in harness.chain.standing()] == [1]


def test_nothing_is_built_on_a_wrong_batch_of_ones_own(harness: SettlementHarness) -> None:
    harness.serve()
    harness.settler().run_once(is_forced=True)
    harness.mine()
    wrong = dict(harness.chain.committed[0].header) | {"entriesCount": 1}
    batch_hash = Header.from_chain(wrong).hash
    harness.chain.committed[0] = replace(harness.chain.committed[0], header=wrong, hash=batch_hash)
    harness.serve()
    with pytest.raises(WrongBatch, match="entries"):
        harness.settler().run_once(is_forced=True)
    assert harness.mine() == 0


def test_an_idle_poll_reads_the_newest_batch_and_pending_ones_alone(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator commits some fifty thousand in a year."""
    settle_batches(harness, 5)
    harness.chain.final = 4
    settle(harness, 1)
    read = batches_read(harness.chain, monkeypatch)
    assert harness.settler().run_once().step is Step.IDLE
    assert set(read) == {5}
    harness.chain.final = 5
    read.clear()
    assert harness.settler().run_once().step is Step.IDLE
    assert set(read) == {5}


@pytest.mark.parametrize("at", range(1, 31))
def test_a_death_at_any_step_loses_and_doubles_nothing(harness: SettlementHarness, at: int) -> None:
    receipts = [harness.serve() for _ in range(4)]
    counter = [at]
    database = CrashingDatabase(harness, counter)
    blobs = CrashingProxy(harness.blobs, {"add_folder", "read"}, 1 + at % 3)
    for _ in range(4):
        auditor = harness.auditor()
        auditor._db = database
        with suppress(SimulatedCrash):
            harness.settler(db=database, blobs=blobs, auditor=auditor).run_once(is_forced=True)
        harness.mine()
        if len(receipts) < 8:
            receipts.append(harness.serve())
    settle(harness)
    assert_all_settled(harness, receipts)
