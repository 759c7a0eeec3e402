"""A watcher convicts batches that follow from an unproved batch which moved claimed amounts."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.deployment.deployment_file import save_deployment
from backend.domain.disputes.witnesses import balance_key
from backend.domain.judging.withheld_trees import account_of
from backend.domain.settlement import BatchState
from backend.installation.installation import Installation
from backend.installation.watcher import WatchOptions, open_watcher
from backend.settings import Settings
from backend.storage.embedded import EmbeddedStore
from tools.attack.attack_market import AttackMarket, Forgery
from tools.attack.attacks import ACCOMPLICE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.domain.batch import Header
    from backend.domain.ids import Account
    from backend.services.watch.watcher import Watcher

MAX_PASSES = 8


@pytest.fixture
def market(chain: ChainClient, tmp_path: Path) -> Iterator[AttackMarket]:
    (tmp_path / "home").mkdir()
    opened = AttackMarket(chain, EmbeddedStore(tmp_path / "home" / "ipfs", is_durable=False), tmp_path)
    yield opened
    opened.close()


@contextmanager
def late_watcher(market: AttackMarket, node: LocalNode, folder: Path) -> Iterator[Watcher]:
    """A watcher that starts now, with what is published."""
    save_deployment(market.chain.deployment, folder / "home" / "deployment.json")
    installation = Installation(Settings(home=folder / "home", rpc_url=node.url))
    try:
        task = WatchOptions(can_challenge=True, can_answer=False)
        with open_watcher(installation, task, threading.Event()) as watcher:
            yield watcher
    finally:
        installation.close()


def settle(market: AttackMarket, robbed: Account | None = None, *, is_published: bool) -> None:
    """Finalise a batch; with `robbed`, one that moves that account's balance to an accomplice."""
    batch = market.build(market.serve_round())
    forgery = replace(Forgery.of(batch), is_published=is_published)
    if robbed is not None:
        balances = dict(forgery.balances)
        balances[balance_key(ACCOMPLICE.account)] = balances.pop(balance_key(robbed))
        forgery.balances = sorted(balances.items())
    header = market.commit(forgery)
    moved = {account_of(key): value for key, value in forgery.balances}
    market.finalise(replace(batch, balances=moved), header)


def run(watcher: Watcher, market: AttackMarket, forgery: Forgery, until: str) -> list[str]:
    """Passes of the watcher, whose demands the operator answers, up to the news `until`; its messages."""
    for _ in range(MAX_PASSES):
        seen = [(one.what, one.message) for one in watcher.run_once()]
        if any(what == until for what, _ in seen):
            return [message for what, message in seen if what == until]
        market.answer(forgery)
        market.pass_time(1)
    raise AssertionError(f"no {until} after {MAX_PASSES} passes")


def commit_next(market: AttackMarket) -> tuple[Forgery, Header]:
    """A batch that follows from the last one."""
    forgery = Forgery.of(market.build(market.serve_round()))
    return forgery, market.commit(forgery)


@pytest.mark.parametrize("is_published", [True, False])
def test_a_late_watcher_convicts_with_the_newest_batch_alone(
    market: AttackMarket, hardhat_node: LocalNode, tmp_path: Path, *, is_published: bool
) -> None:
    for _ in range(2):  # more than the account earns again in the newest batch
        settle(market, is_published=is_published)
    robbed = max(market.ledger.balances, key=lambda account: market.ledger.balances[account])
    market.claim(robbed)
    settle(market, robbed, is_published=is_published)
    forgery, header = commit_next(market)
    with late_watcher(market, hardhat_node, tmp_path) as watcher:
        proved = run(watcher, market, forgery, "proved")
    assert proved == ["void by proveBelowClaimed"]
    assert market.batch(header.hash).state is BatchState.VOID


def test_a_claim_against_an_older_batch_convicts_a_batch_that_was_right(
    market: AttackMarket, hardhat_node: LocalNode, tmp_path: Path
) -> None:
    for _ in range(2):
        settle(market, is_published=True)
    before = market.ledger
    robbed = max(before.balances, key=lambda account: before.balances[account])
    settle(market, robbed, is_published=True)
    forgery, header = commit_next(market)
    with late_watcher(market, hardhat_node, tmp_path) as watcher:
        run(watcher, market, forgery, "right")
        after, market.ledger = market.ledger, before
        market.claim(robbed)
        market.ledger = after
        assert run(watcher, market, forgery, "proved") == ["void by proveBelowClaimed"]
    assert market.batch(header.hash).state is BatchState.VOID
