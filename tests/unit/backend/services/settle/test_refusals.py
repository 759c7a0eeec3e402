"""Reverts of a commit: because of one channel, of several together, or of the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.hashing import receipt_id
from backend.services.settle.settler import Settler, Step
from tests.support.databases import ViewDatabase
from tests.support.market import Key, parameter_set
from tests.support.model_chain import refuse
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import assert_all_settled, settle, settled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.domain.ids import ChannelId


def test_a_channel_that_the_chain_refuses_does_not_hold_up_the_others(harness: SettlementHarness) -> None:
    channel, other = harness.market.channels[:2]
    receipts = [harness.serve(channel, is_paid=False), harness.serve(other)]
    forger = Key("another key")
    forger.account = harness.market.payer_of[channel].account
    harness.sign_voucher(channel, receipts[0].receipt.cumulative, signer=forger)
    progress = harness.settler().run_once(is_forced=True)
    assert "NotAuthorised" in progress.skipped[channel]
    harness.mine()
    assert settled(harness) == receipts[1:]


@pytest.mark.parametrize("culprit", range(5))
def test_a_channel_refused_without_its_name_does_not_hold_up_the_others(tmp_path: Path, culprit: int) -> None:
    harness = SettlementHarness(tmp_path, num_channels=5)
    receipts = [harness.serve(channel) for channel in harness.market.channels for _ in range(2)]
    refused = harness.market.channels[culprit]
    refuse_some(harness, lambda channels: refused in channels)
    skipped = {**harness.settler().run_once(is_forced=True).skipped}
    for _ in range(3):
        harness.mine()
        skipped |= harness.settler().run_once(is_forced=True).skipped
    assert "Panic" in skipped[refused]
    rest = {receipt_id(s.receipt) for s in receipts if s.receipt.channel_id != refused}
    assert {receipt_id(s.receipt) for s in settled(harness)} == rest
    assert harness.unsettled() == 2
    harness.database.close()


def test_channels_that_are_refused_only_together_are_settled_one_after_the_other(
    harness: SettlementHarness,
) -> None:
    receipts = [harness.serve(channel) for channel in harness.market.channels]
    refuse_some(harness, lambda channels: len(channels) > 1)
    progress = harness.settler().run_once(is_forced=True)
    assert progress.step is Step.COMMITTING
    assert progress.skipped.keys() == set(harness.market.channels[1:])
    harness.mine()
    settle(harness)
    assert_all_settled(harness, receipts)


def test_a_changed_parameter_set_reverts_and_is_rebuilt(harness: SettlementHarness) -> None:
    receipts = [harness.serve() for _ in range(3)]
    harness.settler().run_once(is_forced=True)
    harness.chain.sets.append(parameter_set(2, fee_ppm=150_000))
    assert harness.mine() == 0
    settle(harness)
    assert_all_settled(harness, receipts)
    assert harness.chain.committed[0].header["parameterSet"] == 2


def test_a_refusal_of_the_whole_batch_leaves_everything_as_it_was(harness: SettlementHarness) -> None:
    harness.serve()
    honest = harness.chain.parameter_set(1)
    harness.chain.sets.append(parameter_set(2, fee_ppm=0))
    stale = StaleProjections(harness.chain, latest=honest)
    progress = settler_with_view(harness, stale).run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert "ParameterSetNotCurrent" in progress.reason
    assert (harness.mine(), harness.unsettled()) == (0, 1)


class StaleProjections:
    """Projections that lack the newest parameter set."""

    def __init__(self, chain: Any, latest: Any) -> None:
        self._chain, self._latest = chain, latest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def latest_parameter_set(self) -> Any:
        return self._latest


def refuse_some(harness: SettlementHarness, is_refused: Callable[[set[ChannelId]], bool]) -> None:
    """Make commits that collect from such channels revert without naming a channel."""
    commit = harness.chain._commit

    def refusing(commitment: dict[str, Any], collections: list[dict[str, Any]]) -> Any:
        payers = {collection["payer"] for collection in collections}
        if is_refused({c for c, payer in harness.market.payer_of.items() if payer.account in payers}):
            raise refuse("Panic", code=17)
        return commit(commitment, collections)

    harness.chain._commit = refusing  # type: ignore[method-assign]


def settler_with_view(harness: SettlementHarness, view: Any) -> Settler:
    db = harness.db
    db.read = ViewDatabase(harness.database, view).read  # type: ignore[method-assign]
    return harness.settler(db=db)
