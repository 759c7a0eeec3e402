from __future__ import annotations

import threading
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select

from backend.db.tables.settlement import LedgerRow
from backend.domain.chain import BlockRef
from backend.domain.content import cid_of
from backend.domain.errors import Unavailable
from backend.domain.judging.judge import judge
from backend.services.audit.cases import Cases
from backend.services.audit.published import BatchTooLarge
from backend.services.watch.news import News, news
from backend.services.watch.watcher import MAX_PAUSE_SECONDS, TURN_SECONDS, Watcher
from tests.support.chain_view import batches_read
from tests.support.market import recover, some_account, some_hash
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from backend.domain.batch import Header
    from backend.domain.ids import Account
    from backend.domain.settlement import CommittedBatch
    from backend.services.audit.published import BatchReceipts


class StopAfter(threading.Event):
    """An event that is set after `num_waits` waits, and records their timeouts."""

    def __init__(self, num_waits: int) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._num_waits = num_waits

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0)
        if len(self.pauses) >= self._num_waits:
            self.set()
        return self.is_set()


class WatcherHarness:
    """A watcher on a scripted chain, whose passes are counted."""

    def __init__(self, *operators: str) -> None:
        self.block, self.num_passes, self.failure = 1, 0, ""
        self.newest = {some_account(name): some_hash(name) for name in operators}
        unused: Any = None
        self.watcher = Watcher(
            follow=self._follow,
            db=self,  # type: ignore[arg-type]
            chain=self,  # type: ignore[arg-type]
            cases=unused,
            judge=unused,
        )

    def head(self) -> BlockRef:
        return BlockRef(self.block, some_hash(f"block {self.block}"), some_hash("parent"), 1)

    def _follow(self) -> None:
        self.num_passes += 1
        if self.failure:
            raise Unavailable(self.failure)

    @contextmanager
    def read(self) -> Iterator[Any]:
        yield SimpleNamespace(
            chain=SimpleNamespace(
                newest_batches=lambda: self.newest, finalised=lambda _: 0, known_channels=lambda _: {}
            )
        )


def test_there_is_one_pass_per_block() -> None:
    harness = WatcherHarness()
    assert list(harness.watcher.run(StopAfter(3))) == []
    assert harness.num_passes == 1
    harness.block = 2
    list(harness.watcher.run(StopAfter(3)))
    assert harness.num_passes == 2


def test_a_watcher_that_is_stopped_while_it_follows_the_chain_judges_nothing() -> None:
    harness, stop, watched = WatcherHarness("operator"), StopAfter(9), list[str]()
    harness.watcher.follow = stop.set
    harness.watcher._watch = watched.append  # type: ignore[method-assign, assignment]
    assert list(harness.watcher.run(stop)) == []
    assert watched == []


def test_pauses_double_up_to_a_minute_while_the_node_is_unreachable_which_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness, stop = WatcherHarness(), StopAfter(12)
    harness.failure = "the node is away"
    list(harness.watcher.run(stop))
    assert stop.pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert stop.pauses[-1] == MAX_PAUSE_SECONDS
    assert harness.num_passes == 12
    assert len(caplog.records) == 1


def test_an_operator_that_cannot_be_watched_is_named_and_the_others_are_watched() -> None:
    harness, seen = WatcherHarness("bad", "good"), []

    def only_the_good(operator: str) -> Iterator[Any]:
        if operator == some_account("bad"):
            raise ArithmeticError("out of this world")
        seen.append(operator)
        return iter(())

    harness.watcher._watch = only_the_good  # type: ignore[method-assign, assignment]
    (news,) = harness.watcher.run_once()
    assert (news.what, news.operator, news.is_bad) == ("unjudged", some_account("bad"), True)
    assert seen == [some_account("good")]


def test_what_is_unavailable_for_one_operator_does_not_end_the_pass(caplog: pytest.LogCaptureFixture) -> None:
    """What an operator publishes can be the reason, such as a proof that no node runs."""
    harness, seen = WatcherHarness("bad", "good"), []

    def watch(operator: str) -> Iterator[Any]:
        seen.append(operator)
        if operator == some_account("bad"):
            raise Unavailable("the node cannot run it")
        return iter(())

    harness.watcher._watch = watch  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable, match="the node cannot run it"):
        list(harness.watcher.run_once())
    assert seen == [some_account("bad"), some_account("good")]


def test_one_operator_alone_can_be_watched() -> None:
    harness, seen = WatcherHarness("one", "other"), []
    harness.watcher.only = some_account("other")
    harness.watcher._watch = lambda operator: iter(seen.append(operator) or ())  # type: ignore[method-assign]
    list(harness.watcher.run_once())
    assert seen == [some_account("other")]


class FakeChallenge:
    """Records the batches of which leaves are demanded."""

    def __init__(self) -> None:
        self.demanded: list[int] = []
        self.bonds: dict[Account, int] = {}

    def bound(self, view: object) -> dict[Account, int]:
        return self.bonds

    def expire(self, *_: object) -> Iterator[News]:
        return iter(())

    restore = expire

    def demand(self, view: object, batch: CommittedBatch, wanted: object) -> Iterator[News]:
        self.demanded.append(batch.number)
        return iter(())


def test_operators_with_the_least_of_our_bond_are_watched_first() -> None:
    """An old operator that withholds much would take all that its answers free, before the next turn."""
    harness, challenge, seen = WatcherHarness("old", "next", "last"), FakeChallenge(), []
    old, second, last = harness.newest
    challenge.bonds = {old: 2, second: 1, last: 1}
    harness.watcher.challenge = challenge  # type: ignore[assignment]
    harness.watcher._watch = lambda operator: iter(seen.append(operator) or ())  # type: ignore[method-assign]
    list(harness.watcher.run_once())
    assert seen == [second, last, old]


class SlowMarket:
    """Three batches of one operator, each of whose data takes longer than a turn to read."""

    def __init__(self, folder: Path) -> None:
        self.harness, self.now = SettlementHarness(folder), 0.0
        self.passes, self.read, self.too_large = 0, Counter[int](), set[int]()
        settle_batches(self.harness, 3)
        with self.harness.begin() as tx:  # as in a watcher's own database, where nothing is judged yet
            tx.session.execute(delete(LedgerRow))
        market = self

        class SlowCases(Cases):
            def receipts(self, header: Header) -> BatchReceipts:
                if header.number in market.too_large:
                    raise BatchTooLarge("too large to be judged here")
                market.now += TURN_SECONDS + 1
                market.read[header.number] += 1
                return super().receipts(header)

        harness = self.harness
        self.watcher = Watcher(
            follow=self._follow,
            db=harness.db,
            chain=harness.chain,
            cases=SlowCases(harness.chain, harness.blobs, recover, harness.market.domain),
            judge=judge,
            clock=lambda: self.now,
        )

    def _follow(self) -> None:
        self.passes += 1

    def challenge(self) -> FakeChallenge:
        challenge = FakeChallenge()
        self.watcher.challenge = challenge  # type: ignore[assignment]
        return challenge

    def withhold(self, number: int) -> None:
        self.harness.blobs.forget(cid_of(self.harness.chain.committed[number - 1].header["dataDigest"]))


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowMarket]:
    market = SlowMarket(tmp_path)
    yield market
    market.harness.database.close()


def test_an_operator_with_slow_batches_goes_on_in_the_next_pass(slow: SlowMarket) -> None:
    found = list(slow.watcher.run(StopAfter(5)))
    assert [(one.what, one.number) for one in found] == [("right", 1), ("right", 2), ("right", 3)]
    assert slow.passes == 3


def test_slow_batches_after_one_that_is_withheld_take_turns_too(slow: SlowMarket) -> None:
    slow.withhold(1)
    list(slow.watcher.run_once())
    assert slow.passes == 3
    assert slow.read[1] == 1, "what is missing is not asked for again before the others were read"
    list(slow.watcher.run_once())
    assert slow.read[1] == 2


def test_what_is_unavailable_in_one_pass_does_not_end_a_single_run(slow: SlowMarket) -> None:
    broken, calls = some_account("broken"), []
    newest = slow.harness.chain.committed[-1]
    slow.harness.chain.committed.append(replace(newest, operator=broken, hash=some_hash("broken")))
    watch = slow.watcher._watch

    def unavailable(operator: Account) -> Iterator[News]:
        if operator == broken:
            calls.append(operator)
            raise Unavailable("the node cannot run it")
        return watch(operator)

    slow.watcher._watch = unavailable  # type: ignore[method-assign]
    found: deque[News] = deque()
    with pytest.raises(Unavailable, match="the node cannot run it"):
        found.extend(slow.watcher.run_once())  # keeps what precedes the error
    assert [one.number for one in found] == [1, 2, 3]
    assert len(calls) == 3


def test_demands_on_the_own_operator_are_answered_again_after_slow_turns(slow: SlowMarket) -> None:
    own, answered = some_account("own"), []

    class Answers:
        def answer(self, operator: Account) -> Iterator[News]:
            answered.append((operator, slow.read.total()))
            return iter(())

    operators = [slow.harness.market.operator, some_account("next"), own]
    slow.watcher.own, slow.watcher.answers = own, Answers()  # type: ignore[assignment]
    list(slow.watcher._turns(operators))
    assert answered == [(own, 0), (own, 1)]


def test_demands_on_the_own_operator_are_answered_again_within_a_turn_of_slow_demands(
    slow: SlowMarket,
) -> None:
    own, seen = some_account("own"), list[str]()

    class Answers:
        def answer(self, operator: Account) -> Iterator[News]:
            seen.append("answer")
            return iter(())

    class SlowChallenge(FakeChallenge):
        def demand(self, view: object, batch: CommittedBatch, wanted: object) -> Iterator[News]:
            slow.now += TURN_SECONDS + 1
            seen.append(f"demand {batch.number}")
            return iter(())

    for number in (1, 2, 3):
        slow.withhold(number)
    slow.harness.chain.time += 60  # the data counts as withheld
    operators = [own, slow.harness.market.operator]
    list(slow.watcher.run_once())  # reads all three, which takes a turn for each
    slow.watcher.challenge, slow.watcher.own, slow.watcher.answers = SlowChallenge(), own, Answers()  # type: ignore[assignment]
    slow.watcher._unfinished = set(operators[1:])
    list(slow.watcher._turns(operators))
    assert seen == ["answer", "demand 1", "answer", "demand 2", "answer", "demand 3", "answer"]


def test_a_demand_is_in_the_view_before_the_next_batch_is_demanded_from(slow: SlowMarket) -> None:
    """Its bonds count towards the limit."""
    followed = list[int]()

    class Demands(FakeChallenge):
        def demand(self, view: object, batch: CommittedBatch, wanted: object) -> Iterator[News]:
            followed.append(slow.passes)
            yield news(batch, "demanded", "a leaf", some_hash("tx"))

    for number in (1, 2, 3):
        slow.withhold(number)
    slow.harness.chain.time += 60  # the data counts as withheld
    list(slow.watcher.run_once())
    slow.watcher.challenge, slow.passes = Demands(), 0  # type: ignore[assignment]
    slow.watcher._unfinished = {slow.harness.market.operator}
    list(slow.watcher._turns([slow.harness.market.operator]))
    assert followed == [0, 1, 2]


def test_refunds_that_outlast_a_turn_go_on_in_the_next_pass(slow: SlowMarket) -> None:
    class SlowRefunds(FakeChallenge):
        num_left = 3

        def restore(  # type: ignore[override]
            self, view: object, operator: Account, is_over: Callable[[], bool]
        ) -> Generator[News, None, bool]:
            while self.num_left and not is_over():
                slow.now += TURN_SECONDS + 1
                self.num_left -= 1
            yield from ()
            return bool(self.num_left)

    list(slow.watcher.run_once())
    slow.passes, challenge = 0, SlowRefunds()
    slow.watcher.challenge = challenge  # type: ignore[assignment]
    list(slow.watcher.run_once())
    assert (challenge.num_left, slow.passes) == (0, 3)


def test_a_single_run_ends_if_an_operator_fails_or_is_gone_after_an_unfinished_turn(slow: SlowMarket) -> None:
    operator, resumed = slow.harness.market.operator, []

    def broken(tx: Any, *_: object) -> Any:
        resumed.append(tx)
        raise ArithmeticError("out of this world")

    slow.watcher._unfinished = {operator, some_account("gone")}
    slow.watcher.judgements.resume = broken  # type: ignore[method-assign]
    (news,) = slow.watcher.run_once()
    assert (news.what, len(resumed)) == ("unjudged", 1)


def test_an_operator_whose_batches_are_all_final_and_judged_is_not_walked_again(slow: SlowMarket) -> None:
    list(slow.watcher.run_once())
    chain, walked = slow.harness.chain, []
    batches = chain.valid_batches
    chain.valid_batches = lambda *of: walked.append(of) or batches(*of)  # type: ignore[method-assign, func-returns-value]
    list(slow.watcher.run_once())
    assert walked, "batches that are pending can be convicted by a claim"
    chain.final = 3
    list(slow.watcher.run_once())
    walked.clear()
    list(slow.watcher.run_once())
    assert walked == []
    chain.final = 2  # such as a batch that was committed since
    settle_batches(slow.harness, 1)
    assert [one.number for one in slow.watcher.run_once() if one.what == "right"] == [4]
    assert walked


def test_of_the_ledgers_of_final_batches_the_newest_alone_is_kept(
    slow: SlowMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher builds no proofs, for which an API keeps ledgers at intervals."""
    monkeypatch.setattr("backend.services.audit.auditor.LEDGER_INTERVAL", 1)
    slow.harness.chain.final = 2
    list(slow.watcher.run_once())
    with slow.harness.read() as tx:
        kept = tx.session.scalars(select(LedgerRow.number).order_by(LedgerRow.number))
        assert list(kept) == [2, 3]


def test_a_pass_reads_the_batches_since_the_newest_final_one_that_is_judged(
    slow: SlowMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass follows each block, and an operator commits some fifty thousand batches in a year."""
    slow.harness.chain.final = 2
    list(slow.watcher.run_once())
    read = batches_read(slow.harness.chain, monkeypatch)
    list(slow.watcher.run_once())
    assert set(read) == {2, 3}


def test_a_pass_reads_no_batch_before_a_final_one_that_is_not_right(
    slow: SlowMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow.too_large, slow.harness.chain.final = {2}, 2
    list(slow.watcher.run_once())
    read = batches_read(slow.harness.chain, monkeypatch)
    list(slow.watcher.run_once())
    assert set(read) == {1, 2, 3}, "the first has the newest ledger"
    assert read.count(1) == 1


def test_an_operator_is_walked_again_when_a_reorganisation_makes_a_final_batch_pending(
    slow: SlowMarket,
) -> None:
    """Its batches may then be demanded from, and convicted."""
    chain, walked = slow.harness.chain, []
    chain.final = 3
    list(slow.watcher.run_once())
    batches = chain.valid_batches
    chain.valid_batches = lambda *of: walked.append(of) or batches(*of)  # type: ignore[method-assign, func-returns-value]
    chain.final = 2
    list(slow.watcher.run_once())
    assert walked


def test_a_final_batch_that_was_not_right_is_judged_again_when_a_reorganisation_makes_it_pending(
    slow: SlowMarket,
) -> None:
    slow.too_large, slow.harness.chain.final = {1}, 1
    list(slow.watcher.run_once())
    slow.too_large, slow.harness.chain.final = set(), 0
    assert [one.number for one in slow.watcher.run_once() if one.what == "right"] == [1, 2, 3]


def test_demands_on_the_own_operator_are_answered_also_if_its_batches_are_final(slow: SlowMarket) -> None:
    answered: list[Account] = []

    class Answers:
        def answer(self, operator: Account) -> Iterator[News]:
            answered.append(operator)
            return iter(())

    slow.harness.chain.final, own = 3, slow.harness.market.operator
    list(slow.watcher.run_once())
    slow.watcher.own, slow.watcher.answers = own, Answers()  # type: ignore[assignment]
    list(slow.watcher.run_once())
    assert answered == [own]


def test_a_batch_that_is_too_large_to_be_judged_is_reported_and_nothing_is_demanded(slow: SlowMarket) -> None:
    """What it took was the process, and with it the judgement of all operators after this one."""
    slow.too_large, challenge = {2}, slow.challenge()
    other = some_account("other")
    newest = slow.harness.chain.committed[0]
    slow.harness.chain.committed.append(replace(newest, operator=other, hash=some_hash("other")))
    found = [(one.what, one.operator == other, one.number) for one in slow.watcher.run_once()]
    assert [one for one in found if not one[1]] == [
        ("right", False, 1),
        ("unjudged", False, 2),
        ("unjudged", False, 3),
    ]
    assert any(one[1] for one in found), "the operators after it are judged"
    assert challenge.demanded == []
    slow.too_large.clear()  # as in a process with more memory
    slow.watcher._settled.clear()
    found = [(one.what, one.operator == other, one.number) for one in slow.watcher.run_once()]
    assert ("right", False, 2) in found


@pytest.mark.parametrize("final", [0, 1, 2])
def test_later_passes_demand_nothing_that_follows_from_a_batch_that_is_too_large(
    slow: SlowMarket, final: int
) -> None:
    slow.too_large, slow.harness.chain.final, challenge = {1}, final, slow.challenge()
    for _ in range(3):
        assert {one.what for one in slow.watcher.run_once()} <= {"unjudged"}
    assert challenge.demanded == []


def test_what_a_batch_withholds_is_demanded_again_once_the_large_one_before_it_is_judged(
    slow: SlowMarket,
) -> None:
    slow.too_large, challenge = {1}, slow.challenge()
    list(slow.watcher.run_once())
    slow.too_large.clear()
    slow.withhold(2)
    list(slow.watcher.run_once())
    assert 3 in challenge.demanded
