"""What the chain refuses: a channel, some channels together, a whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.hashing import receipt_id
from backend.services.settle.settler import Settler, Step
from tests.support.databases import ViewDatabase
from tests.support.market import Key, parameter_set
from tests.support.model_chain import refuse
from tests.support.settling import assert_all_settled, settle, settled
from tests.support.town import Town

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.domain.ids import ChannelId


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


def test_a_refusal_of_the_whole_batch_leaves_everything_as_it_was(town: Town) -> None:
    town.serve()
    honest = town.chain.parameter_set(1)
    town.chain.sets.append(parameter_set(2, fee_ppm=0))
    stale = Stale(town.chain, latest=honest)
    progress = settler_with_view(town, stale).run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert "ParameterSetNotCurrent" in progress.reason
    assert (town.mine(), town.unsettled()) == (0, 1)


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
    db = town.db
    db.read = ViewDatabase(town.database, view).read  # type: ignore[method-assign]
    return town.settler(db=db)
