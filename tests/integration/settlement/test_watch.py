"""Watcher: which batches it disputes, which demands it answers, its limits, and its recovery after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from backend.chain.keys import local_account, recover
from backend.deployment.deployment_file import save_deployment
from backend.domain.disputes.proofs import ZeroLeafProof
from backend.domain.disputes.witnesses import Tree, balance_key
from backend.domain.errors import NotFound, Unavailable
from backend.domain.judging.case import Finding, Wrong
from backend.domain.settlement import BatchState
from backend.installation.installation import Installation
from backend.installation.watcher import WatchOptions, open_watcher, withdraw_credit
from backend.services.audit.auditor import Auditor
from backend.services.audit.cases import Cases
from backend.settings import Settings
from backend.storage.embedded import EmbeddedStore
from tests.integration.settlement.conftest import WINDOW
from tools.attack import attacks
from tools.attack.attack_market import WATCHER, AttackMarket, Forgery
from tools.local_market import OPERATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.domain.batch import Batch, Header
    from backend.domain.settlement import CommittedBatch, Demand
    from backend.domain.transactions import Call, CallResult
    from backend.services.watch.news import News
    from backend.services.watch.watcher import Watcher

CURIOUS = local_account(11)
GWEI = 10**9
CHALLENGE = WatchOptions(can_challenge=True, can_answer=False)


class WatcherHarness:
    """A market with forged batches, and watchers that share one home folder."""

    def __init__(self, chain: ChainClient, node: LocalNode, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        save_deployment(chain.deployment, self.home / "deployment.json")
        self.url = node.url
        self.market = AttackMarket(chain, EmbeddedStore(self.home / "ipfs", is_durable=False), folder)
        self._open = ExitStack()

    def watcher(self, task: WatchOptions = CHALLENGE, **limits: int) -> Watcher:
        installation = Installation(Settings(home=self.home, rpc_url=self.url, **limits))  # type: ignore[arg-type]
        self._open.callback(installation.close)
        return self._open.enter_context(open_watcher(installation, task, threading.Event()))

    def withdraw_credit(self) -> CallResult:
        installation = Installation(Settings(home=self.home, rpc_url=self.url))
        self._open.callback(installation.close)
        return withdraw_credit(installation)

    def commit(self, forge: Callable[[AttackMarket, Batch], Forgery]) -> Header:
        return self.market.commit(forge(self.market, self.market.build(self.market.serve_round())))

    def state(self, header: Header) -> BatchState:
        return self.market.batch(header.hash).state

    def num_sent(self) -> int:
        return self.market.chain.node.num_transactions(WATCHER.account)

    def close(self) -> None:
        self._open.close()
        self.market.close()


@pytest.fixture
def harness(chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path) -> Iterator[WatcherHarness]:
    opened = WatcherHarness(chain, hardhat_node, tmp_path)
    yield opened
    opened.close()


def honest(_market: AttackMarket, batch: Batch) -> Forgery:
    return Forgery.of(batch)


def what(news: Iterator[News]) -> list[str]:
    return [one.what for one in news]


def demand(harness: WatcherHarness, header: Header, tree: Tree, *keys: int) -> None:
    """Send a demand from an account unrelated to the watcher."""
    harness.market.demand(CURIOUS, header.abi, tree, keys)


def test_without_challenge_it_reports_and_sends_nothing(harness: WatcherHarness) -> None:
    header, before = harness.commit(attacks.surplus_entry), harness.num_sent()
    watcher = harness.watcher(WatchOptions(can_answer=False))
    (news,) = watcher.run_once()
    assert (news.what, news.batch_hash) == ("withheld", header.hash)
    assert news.is_bad
    assert list(watcher.run_once()) == []  # said once
    assert (harness.num_sent(), harness.state(header)) == (before, BatchState.COMMITTED)


def test_nothing_is_sent_twice_by_a_watcher_or_by_its_successor(harness: WatcherHarness) -> None:
    harness.commit(attacks.surplus_entry)
    watcher = harness.watcher()
    assert what(watcher.run_once()) == ["withheld", "demanded"]
    before = harness.num_sent()
    assert what(watcher.run_once()) == []
    assert what(harness.watcher().run_once()) == ["withheld"]
    assert harness.num_sent() == before


def test_bonds_stay_within_the_limit_and_are_credited_after_a_void(harness: WatcherHarness) -> None:
    header = harness.commit(attacks.withheld)
    market, chain = harness.market, harness.market.chain
    market.pass_time(WINDOW // 16)
    limit = 2 * 10**7  # gwei
    watcher = harness.watcher(watch_max_bond=limit)
    before = market.dollars(WATCHER.account)
    assert what(watcher.run_once()) == ["withheld", "demanded", "bond_limit"]
    bonds = [one.bond for one in market.open_demands()]
    assert 0 < len(bonds) < 8
    assert sum(bonds) <= limit * GWEI
    list(watcher.run_once())  # what the margin for the price left over may cover another leaf
    bonds = [one.bond for one in market.open_demands()]
    assert sum(bonds) <= limit * GWEI
    market.pass_time(WINDOW // 8 + len(bonds) + 1)
    assert what(watcher.run_once()) == ["proved"]
    assert what(watcher.run_once()) == ["bond_returned"] * len(bonds) + ["refunded"]
    assert harness.state(header) is BatchState.VOID
    assert chain.call("Disputes", "creditOf", WATCHER.account) >= sum(bonds)
    assert market.dollars(WATCHER.account) > before  # the challenger's part of the slash

    assert harness.withdraw_credit().is_done
    assert chain.call("Disputes", "creditOf", WATCHER.account) == 0
    with pytest.raises(NotFound, match="no credit"):
        harness.withdraw_credit()


def test_batch_data_may_come_a_little_late(harness: WatcherHarness) -> None:
    harness.commit(attacks.withheld)
    assert what(harness.watcher().run_once()) == []


def test_a_proof_above_the_gas_limit_is_reserved_and_not_sent(harness: WatcherHarness) -> None:
    """The gas of a proof is unknown until it is reserved."""
    header = harness.commit(attacks.outside_snapshot)
    before = harness.num_sent()
    assert what(harness.watcher(watch_max_gas=100_000).run_once()) == ["wrong", "reserved", "refused"]
    assert (harness.num_sent(), harness.state(header)) == (before + 1, BatchState.COMMITTED)


def test_a_proof_that_would_revert_is_reported_and_not_sent(harness: WatcherHarness) -> None:
    header = harness.commit(honest)
    watcher, before = harness.watcher(), harness.num_sent()
    opening = harness.market.build(harness.market.serve_round()).open_receipt(0)
    bogus = Wrong(Finding("x", "said by mistake"), ZeroLeafProof(header, Tree.RECEIPTS, bytes(32), opening))
    watcher.judgements.judge = lambda *_: bogus
    assert what(watcher.run_once()) == ["wrong", "refused"]
    assert (harness.num_sent(), harness.state(header)) == (before, BatchState.COMMITTED)


def test_the_watchers_own_operator_is_never_disputed(harness: WatcherHarness) -> None:
    header, before = harness.commit(attacks.outside_snapshot), harness.num_sent()
    assert what(harness.watcher(WatchOptions(can_challenge=True)).run_once()) == ["wrong"]
    assert (harness.num_sent(), harness.state(header)) == (before, BatchState.COMMITTED)


def test_a_wrong_batch_that_became_final_is_reported_and_the_next_one_judged_nevertheless(
    harness: WatcherHarness,
) -> None:
    batch = harness.market.build(harness.market.serve_round())
    forgery = attacks.balance_short(harness.market, batch)
    harness.market.finalise(batch, harness.market.commit(forgery))
    header = harness.commit(attacks.outside_snapshot)
    first, second, *_ = harness.watcher().run_once()
    assert (first.what, first.number) == ("wrong", 1)
    assert (second.what, second.number) == ("wrong", 2)
    assert harness.state(header) is BatchState.VOID


def test_an_operator_that_cannot_be_judged_is_reported_and_others_are_still_judged(
    harness: WatcherHarness,
) -> None:
    harness.commit(honest)
    watcher = harness.watcher()

    def fail(*_: object) -> NoReturn:
        raise ValueError("a number out of this world")

    watcher.judgements.judge = fail
    assert what(watcher.run_once()) == ["unjudged"]


def test_a_watcher_killed_after_its_reservation_leaves_it_to_its_successor(harness: WatcherHarness) -> None:
    header = harness.commit(attacks.outside_snapshot)
    news = harness.watcher().run_once()
    assert [next(news).what, next(news).what] == ["wrong", "reserved"]
    news.close()  # type: ignore[attr-defined]
    before = harness.num_sent()
    assert what(harness.watcher().run_once()) == ["wrong", "proved"]
    assert harness.num_sent() == before + 1
    conviction = harness.market.batch(header.hash).conviction
    assert conviction is not None
    assert conviction.challenger == WATCHER.account


def test_demands_on_the_own_operator_are_answered_from_batch_data(harness: WatcherHarness) -> None:
    first_batch = harness.market.build(harness.market.serve_round())
    first = harness.market.commit(Forgery.of(first_batch))
    harness.market.finalise(first_batch, first)
    second = harness.commit(honest)
    known, unknown = balance_key(OPERATOR.account), balance_key(CURIOUS.account)
    demand(harness, second, Tree.RECEIPTS, 0, 3)
    demand(harness, second, Tree.ENTRIES, known << 64, unknown << 64, 0, (1 << 256) - 1)
    demand(harness, second, Tree.BALANCES, known, unknown)
    demand(harness, second, Tree.PARENT_BALANCES, known, unknown, 0)
    chain = harness.market.chain
    bonds = [demanded.bond for demanded in harness.market.open_demands()]
    news = what(harness.watcher(WatchOptions()).run_once())
    assert news == ["answered"] * 11 + ["right"]
    credit = chain.call("Disputes", "creditOf", OPERATOR.account)
    assert credit == sum(bond - bond // 4 for bond in bonds)
    assert harness.market.chain.call("Disputes", "demandsOn", second.hash)[0] == 0


def test_demands_are_answered_only_if_answering_is_enabled(
    harness: WatcherHarness,
) -> None:
    header = harness.commit(honest)
    demand(harness, header, Tree.RECEIPTS, 0)
    assert what(harness.watcher(WatchOptions(can_answer=False)).run_once()) == ["right"]
    assert what(harness.watcher(WatchOptions(can_answer=True)).run_once()) == ["answered", "right"]


def test_an_audit_finds_right_what_was_shown_on_demand_alone(harness: WatcherHarness) -> None:
    market = harness.market
    forgery = attacks.withheld_but_answered(market, market.build(market.serve_round()))
    header = market.commit(forgery)
    cases = Cases(market.chain, market.blobs, recover, market.settlement)
    auditor = Auditor(market.database, cases)
    (verdict,) = auditor.audit(OPERATOR.account)
    assert verdict.finding is not None
    assert verdict.finding.what == "data_missing"
    (tree, keys), *_ = verdict.demands
    demand(harness, header, tree, *keys)
    assert market.answer(forgery) == len(keys) == header.receipts_count
    market.indexer.catch_up()
    (verdict,) = auditor.audit(OPERATOR.account)
    assert verdict.is_right


def test_a_demand_that_was_already_answered_is_not_reported(harness: WatcherHarness) -> None:
    demand(harness, harness.commit(honest), Tree.BALANCES, 0)
    watcher = harness.watcher(WatchOptions())
    assert watcher.answers is not None
    calls = watcher.answers.calls

    def calls_and_lose(committed: CommittedBatch, demands: Sequence[Demand]) -> Iterator[Call]:
        found = list(calls(committed, demands))
        for call in found:
            harness.market.send(CURIOUS, call.contract, call.function, *call.args)
        return iter(found)

    watcher.answers.calls = calls_and_lose  # type: ignore[method-assign]
    assert what(watcher.run_once()) == ["right"]


def test_a_node_that_is_away_is_waited_for(harness: WatcherHarness) -> None:
    harness.commit(honest)
    watcher, stop = harness.watcher(WatchOptions(can_answer=False)), threading.Event()
    follow, failures = watcher.follow, iter([Unavailable("away"), Unavailable("away"), None])

    def follow_at_last() -> None:
        if (failure := next(failures)) is not None:
            raise failure
        follow()

    watcher.follow = follow_at_last
    found = watcher.run(stop)
    assert next(found).what == "right"
    stop.set()
    assert what(found) == []


def test_the_command_says_by_its_exit_code_whether_something_is_wrong(harness: WatcherHarness) -> None:
    def once() -> tuple[int, list[Any]]:
        found = subprocess.run(
            [sys.executable, "-m", "backend.cli.main", "watch", "--once", "--json", "--no-answer"],
            env=os.environ | {"LORALEDGER_HOME": str(harness.home), "LORALEDGER_RPC_URL": harness.url},
            capture_output=True,
            text=True,
            check=False,
        )
        return found.returncode, [json.loads(line)["what"] for line in found.stdout.splitlines()]

    batch = harness.market.build(harness.market.serve_round())
    harness.market.ledger = batch.after(harness.market.commit(Forgery.of(batch)))
    assert once() == (0, ["right"])
    harness.commit(attacks.outside_snapshot)
    assert once() == (1, ["right", "wrong"])
