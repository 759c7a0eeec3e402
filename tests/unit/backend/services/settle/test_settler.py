from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from backend.db.tables.transactions import TransactionRow
from backend.domain.batch import Header
from backend.services.audit.auditor import WrongBatch
from backend.services.settle.settler import Pace, Step
from tests.support.settling import Died, Dying, DyingDatabase, assert_all_settled, settle, settled
from tests.support.town import Town
from tests.support.tracing import by_name, name_of, recorded

if TYPE_CHECKING:
    from pathlib import Path


def test_receipts_of_all_channels_become_one_batch(town: Town) -> None:
    receipts = [town.serve() for _ in range(8)]
    progress = town.settler().run_once()
    assert (progress.step, progress.number) == (Step.COMMITTING, 1)
    town.mine()
    assert_all_settled(town, receipts)
    assert len(town.chain.committed) == 1


def test_a_batch_is_a_trace_linked_to_those_of_its_answers_and_its_commit_belongs_to_it(town: Town) -> None:
    answers = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2)]
    for answer in (*answers, None):
        signed = town.market.serve(town.market.channels[0])
        town.store(signed, answer)
        town.sign_voucher(signed.receipt.channel_id, signed.receipt.cumulative)
    with recorded() as spans:
        town.settler().run_once(is_forced=True)
    batch = by_name(spans)["batch"]
    assert {f"{link.context.trace_id:032x}" for link in batch.links} == {answer[3:35] for answer in answers}
    assert batch.parent is None
    with town.begin() as tx:
        (commit,) = tx.session.scalars(select(TransactionRow))
    assert (commit.trace or "")[:-3] == name_of(batch)[:-3]  # but for the flags


def test_nothing_is_committed_without_receipts(town: Town) -> None:
    assert town.settler().run_once(is_forced=True).step is Step.IDLE
    assert town.mine() == 0


def test_a_batch_waits_until_it_is_due_by_age_or_size(town: Town) -> None:
    town.serve()
    town.chain.time = town.market.served_at + 3
    assert town.settler().run_once().step is Step.IDLE
    assert town.settler(pace=Pace(5, 1)).run_once().step is Step.COMMITTING


def test_a_batch_is_due_once_its_oldest_receipt_is_old_enough(town: Town) -> None:
    town.serve()
    town.chain.time = town.market.served_at + 5
    assert town.settler().run_once().step is Step.COMMITTING


def test_the_data_is_public_before_the_commit_is_queued(town: Town) -> None:
    town.serve()
    blobs = Dying(town.blobs, {"add_folder"}, 1)
    with pytest.raises(Died):
        town.settler(blobs=blobs).run_once()
    assert town.mine() == 0
    assert town.unsettled() == 1


def test_one_batch_is_in_flight_at_a_time(town: Town) -> None:
    town.serve()
    town.settler().run_once(is_forced=True)
    late = town.serve()
    assert town.settler().run_once(is_forced=True).step is Step.WAITING
    town.mine()
    assert town.settler().run_once(is_forced=True).number == 2
    town.mine()
    assert settled(town)[-1] == late


def test_a_confirmed_commit_is_waited_for_until_it_is_indexed(town: Town) -> None:
    town.serve()
    town.settler().run_once(is_forced=True)
    town.mine()
    town.chain.is_lagging = True
    town.chain.height -= 1
    town.serve()
    assert town.settler().run_once(is_forced=True).step is Step.WAITING


def test_a_batch_has_at_most_the_receipts_of_its_pace(town: Town) -> None:
    receipts = [town.serve() for _ in range(7)]
    town.settler(pace=Pace(5, 3)).run_once()
    town.mine()
    assert len(settled(town)) == 3
    settle(town)
    assert_all_settled(town, receipts)


def test_batches_become_final_in_order_after_their_window(town: Town) -> None:
    for _ in range(2):
        town.serve()
        town.settler().run_once(is_forced=True)
        town.mine()
    assert town.settler().finalise() is None
    town.chain.time += 60
    assert town.settler().finalise() == 2
    assert town.settler().finalise() == 2
    assert town.mine() == 1
    assert town.chain.final == 2
    assert town.settler().finalise() is None


def test_a_commit_from_elsewhere_is_followed_and_built_upon(town: Town, tmp_path: Path) -> None:
    """The operator's other installation, with its own database, settles the same chain."""
    ours = town.serve(town.market.channels[0])
    town.settler().run_once(is_forced=True)
    (tmp_path / "other").mkdir()
    other = Town(tmp_path / "other")
    other.chain, other.market, other.blobs = town.chain, town.market, town.blobs
    theirs = other.serve(town.market.channels[1])
    other.settler().run_once(is_forced=True)
    assert other.mine() == 1
    assert town.mine() == 0
    settle(town)
    assert settled(town) == [theirs, ours]
    other.database.close()


def test_of_two_settlers_at_the_same_point_one_commits(town: Town) -> None:
    receipts = [town.serve()]

    class Meanwhile:
        def __getattr__(self, name: str) -> Any:
            if name == "add_folder":
                receipts.append(town.serve())
                town.settler().run_once(is_forced=True)
            return getattr(town.blobs, name)

    assert town.settler(blobs=Meanwhile()).run_once(is_forced=True).step is Step.WAITING
    assert town.mine() == 1
    assert_all_settled(town, receipts)


def test_receipts_of_a_voided_batch_are_settled_again(town: Town) -> None:
    receipts = []
    for _ in range(3):
        receipts.append(town.serve())
        town.settler().run_once(is_forced=True)
        town.mine()
    town.chain.void_from(2)
    settle(town)
    assert_all_settled(town, receipts)
    assert [b.number for b in town.chain.standing()] == [1, 2]


def test_nothing_is_built_on_a_wrong_batch_of_ones_own(town: Town) -> None:
    town.serve()
    town.settler().run_once(is_forced=True)
    town.mine()
    wrong = dict(town.chain.committed[0].header) | {"entriesCount": 1}
    batch_hash = Header.from_chain(wrong).hash
    town.chain.committed[0] = replace(town.chain.committed[0], header=wrong, hash=batch_hash)
    town.serve()
    with pytest.raises(WrongBatch, match="entries"):
        town.settler().run_once(is_forced=True)
    assert town.mine() == 0


def test_an_idle_poll_looks_once_at_the_batches_beside_the_audit(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(town)
    looks = []
    batches = town.chain.batches
    monkeypatch.setattr(town.chain, "batches", lambda operator: looks.append(operator) or batches(operator))
    assert town.settler().run_once().step is Step.IDLE
    assert len(looks) == 2


@pytest.mark.parametrize("at", range(1, 31))
def test_a_death_at_any_step_loses_and_doubles_nothing(town: Town, at: int) -> None:
    receipts = [town.serve() for _ in range(4)]
    counter = [at]
    database = DyingDatabase(town, counter)
    blobs = Dying(town.blobs, {"add_folder", "read"}, 1 + at % 3)
    for _ in range(4):
        auditor = town.auditor()
        auditor._db = database
        with suppress(Died):
            town.settler(db=database, blobs=blobs, auditor=auditor).run_once(is_forced=True)
        town.mine()
        if len(receipts) < 8:
            receipts.append(town.serve())
    settle(town)
    assert_all_settled(town, receipts)
