from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.batch import Header
from backend.domain.hashing import receipt_id
from backend.services.audit.auditor import WrongBatch
from backend.services.settle.settler import Pace, Settler, Step
from tests.support.market import Key, parameter_set
from tests.support.model_chain import THAW_SECONDS, Town, refuse
from tests.support.settling import Died, Dying, assert_all_settled, dying_begin, settle, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.domain.ids import ChannelId


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path)
    yield town
    town.database.close()


def test_receipts_of_all_channels_become_one_batch(town: Town) -> None:
    receipts = [town.serve() for _ in range(8)]
    progress = town.settler().run_once()
    assert (progress.step, progress.number) == (Step.COMMITTING, 1)
    town.mine()
    assert_all_settled(town, receipts)
    assert len(town.chain.committed) == 1


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


def test_a_held_session_key_signs_for_exactly_what_is_collected(town: Town) -> None:
    channel = town.market.channels[0]
    receipts = [town.serve(channel, is_paid=False) for _ in range(3)]
    assert town.settler().run_once(is_forced=True).skipped.keys() == {channel}
    town.grant(channel, cap=10**9)
    settle(town)
    assert_all_settled(town, receipts)


def test_no_more_is_collected_than_voucher_or_cap_allow(town: Town) -> None:
    first, second = town.market.channels[:2]
    for channel in (first, second):
        one = town.serve(channel, is_paid=False)
        town.serve(channel, is_paid=False)
        if channel == first:
            town.sign_voucher(channel, one.receipt.cumulative)
        else:
            town.grant(channel, one.receipt.cumulative + 1)
    assert town.settler().run_once(is_forced=True).skipped.keys() == {first, second}
    town.mine()
    assert len(settled(town)) == 2
    assert town.unsettled() == 2


def test_a_voucher_that_promises_more_than_its_key_may_does_not_hide_the_payers_own(town: Town) -> None:
    channel, session = town.market.channels[0], Key("kept by the payer")
    town.grant(channel, cap=1, key=session)
    receipts = [town.serve(channel, is_paid=False)]
    town.sign_voucher(channel, 1 << 127, signer=session)
    town.sign_voucher(channel, receipts[0].receipt.cumulative)
    settle(town)
    assert_all_settled(town, receipts)


def test_a_session_key_whose_thaw_is_over_does_not_stand_before_a_live_one(town: Town) -> None:
    channel = town.market.channels[0]
    town.grant(channel, cap=10**9, key=town.old_session_key, expiry=town.chain.time - THAW_SECONDS - 1)
    town.grant(channel, cap=10**9)
    receipts = [town.serve(channel, is_paid=False)]
    settle(town)
    assert_all_settled(town, receipts)


def test_a_session_key_serves_for_collection_until_its_thaw_is_over(town: Town) -> None:
    channel = town.market.channels[0]
    town.grant(channel, cap=10**9, expiry=town.chain.time - THAW_SECONDS)
    receipts = [town.serve(channel, is_paid=False)]
    settle(town, rounds=1)
    assert_all_settled(town, receipts)


def test_no_more_is_collected_than_the_channel_holds(town: Town) -> None:
    channel = town.market.channels[0]
    one = town.serve(channel)
    town.serve(channel)
    held = replace(town.chain.channel_by_id[channel], balance=one.receipt.charge)
    town.chain.channel_by_id[channel] = held
    assert "balance" in town.settler().run_once(is_forced=True).skipped[channel]
    town.mine()
    assert settled(town) == [one]


def test_a_lost_receipt_stops_its_channel_until_the_payer_waives_it(town: Town) -> None:
    channel, other = town.market.channels[:2]
    lost = town.market.serve(channel)
    kept = town.serve(channel)
    town.serve(other)
    progress = town.settler().run_once(is_forced=True)
    assert "the line is at 0" in progress.skipped[channel]
    town.mine()
    assert {s.receipt.channel_id for s in settled(town)} == {other}
    most = kept.receipt.cumulative
    town.sign_voucher(channel, most, waived_until=lost.receipt.cumulative)
    settle(town)
    assert settled(town)[-1] == kept
    assert town.chain.channel_by_id[channel].balance == 10**12 - kept.receipt.charge


def test_a_bad_receipt_holds_up_only_the_rest_of_its_channel(town: Town) -> None:
    channel, other = town.market.channels[:2]
    good = [town.serve(channel), town.serve(other)]
    honest = town.market.serve(channel)
    wrong = replace(honest.receipt, prompt_tokens=honest.receipt.prompt_tokens + 1)
    town.store(town.market.sign(wrong, honest.slices))
    after = town.serve(channel)
    assert "charge" in town.settler().run_once(is_forced=True).skipped[channel]
    town.mine()
    assert settled(town) == sorted(good, key=lambda s: s.receipt.channel_id)
    town.sign_voucher(channel, after.receipt.cumulative, waived_until=wrong.cumulative)
    settle(town)
    assert settled(town)[-1] == after


def test_a_channel_that_the_chain_refuses_does_not_hold_up_the_others(town: Town) -> None:
    channel, other = town.market.channels[:2]
    receipts = [town.serve(channel, is_paid=False), town.serve(other)]
    forger = Key("somebody else")
    forger.account = town.market.payer_of[channel].account
    town.sign_voucher(channel, receipts[0].receipt.cumulative, signer=forger)
    progress = town.settler().run_once(is_forced=True)
    assert "NotAuthorised" in progress.skipped[channel]
    town.mine()
    assert settled(town) == receipts[1:]


@pytest.mark.parametrize("culprit", range(5))
def test_a_channel_refused_without_its_name_does_not_hold_up_the_others(tmp_path: Path, culprit: int) -> None:
    town = Town(tmp_path, num_channels=5)
    receipts = [town.serve(channel) for channel in town.market.channels for _ in range(2)]
    refused = town.market.channels[culprit]
    refuse_some(town, lambda channels: refused in channels)
    skipped = {**town.settler().run_once(is_forced=True).skipped}
    for _ in range(3):
        town.mine()
        skipped |= town.settler().run_once(is_forced=True).skipped
    assert "Panic" in skipped[refused]
    rest = {receipt_id(s.receipt) for s in receipts if s.receipt.channel_id != refused}
    assert {receipt_id(s.receipt) for s in settled(town)} == rest
    assert town.unsettled() == 2
    town.database.close()


def test_channels_that_are_refused_only_together_are_settled_one_after_the_other(town: Town) -> None:
    receipts = [town.serve(channel) for channel in town.market.channels]
    refuse_some(town, lambda channels: len(channels) > 1)
    progress = town.settler().run_once(is_forced=True)
    assert progress.step is Step.COMMITTING
    assert progress.skipped.keys() == set(town.market.channels[1:])
    town.mine()
    settle(town)
    assert_all_settled(town, receipts)


def test_a_changed_parameter_set_reverts_and_is_rebuilt(town: Town) -> None:
    receipts = [town.serve() for _ in range(3)]
    town.settler().run_once(is_forced=True)
    town.chain.sets.append(parameter_set(2, fee_ppm=150_000))
    assert town.mine() == 0
    settle(town)
    assert_all_settled(town, receipts)
    assert town.chain.committed[0].header["parameterSet"] == 2


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


def test_a_refusal_of_the_whole_batch_leaves_everything_as_it_was(town: Town) -> None:
    town.serve()
    honest = town.chain.parameter_set(1)
    town.chain.sets.append(parameter_set(2, fee_ppm=0))
    stale = Stale(town.chain, latest=honest)
    progress = settler_with_view(town, stale).run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert "NotCurrentSet" in progress.reason
    assert (town.mine(), town.unsettled()) == (0, 1)


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


@pytest.mark.parametrize("at", range(1, 31))
def test_a_death_at_any_step_loses_and_doubles_nothing(town: Town, at: int) -> None:
    receipts = [town.serve() for _ in range(4)]
    counter = [at]
    begin = dying_begin(town, counter)
    blobs = Dying(town.blobs, {"add_folder", "read"}, 1 + at % 3)
    for _ in range(4):
        auditor = town.auditor()
        auditor._begin = begin
        with suppress(Died):
            town.settler(begin=begin, blobs=blobs, auditor=auditor).run_once(is_forced=True)
        town.mine()
        if len(receipts) < 8:
            receipts.append(town.serve())
    settle(town)
    assert_all_settled(town, receipts)


class Stale:
    """Projections that have not seen the newest parameter set."""

    def __init__(self, chain: Any, latest: Any) -> None:
        self._chain, self._latest = chain, latest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def latest_parameter_set(self) -> Any:
        return self._latest


def refuse_some(town: Town, is_refused: Callable[[set[ChannelId]], bool]) -> None:
    """Commits that collect from such channels revert without naming any."""
    commit = town.chain._commit

    def refusing(commitment: dict[str, Any], collections: list[dict[str, Any]]) -> Any:
        payers = {collection["payer"] for collection in collections}
        if is_refused({c for c, payer in town.market.payer_of.items() if payer.account in payers}):
            raise refuse("Panic", code=17)
        return commit(commitment, collections)

    town.chain._commit = refusing  # type: ignore[method-assign]


def settler_with_view(town: Town, view: Any) -> Settler:
    @contextmanager
    def read() -> Iterator[Any]:
        with town.read() as tx:
            tx.chain = view
            yield tx

    return town.settler(read=read)
