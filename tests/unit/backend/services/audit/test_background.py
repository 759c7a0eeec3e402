"""Audits in the background: what one operator can do to requests, and to the audits of others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import Conflict, Unavailable
from backend.domain.hashing import receipt_id
from backend.services.accounts.credit_walk import EarningsQuery
from backend.services.audit.background import BackgroundAudits
from backend.services.background import MAX_THREADS, MAX_WAITING, Background, Work
from tests.support.market import some_account
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle_batches
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
    from pathlib import Path

    from backend.domain.ids import Account, Cid

SLOW, HONEST, WRONG = some_account("slow"), some_account("honest"), some_account("wrong")


class FakeDatabase:
    @contextmanager
    def read(self) -> Iterator[None]:
        yield None


class ScriptedAuditor:
    """Audits of the operators `slow` wait for `release`; they end as `errors` says."""

    def __init__(
        self, errors: Mapping[Account, Exception] | None = None, slow: Sequence[Account] = (SLOW,)
    ) -> None:
        self.errors, self.slow, self.release = dict(errors or {}), slow, threading.Event()
        self.lock = threading.Lock()
        self.audited: list[Account] = []
        self.current: set[Account] = set()
        self.num_running = self.most_running = self.commits = 0

    def is_current(self, tx: object, operator: Account) -> bool:
        return operator in self.current

    def follow(self, operator: Account, is_turn_over: Callable[[], bool]) -> None:
        with self.lock:
            self.audited.append(operator)
            self.num_running += 1
            self.most_running = max(self.most_running, self.num_running)
        if operator in self.slow:
            self.release.wait()
        with self.lock:
            self.num_running -= 1
        if operator in self.errors:
            raise self.errors[operator]
        self.current.add(operator)


def audits_of(auditor: Any, wait_seconds: float = 60, **options: Any) -> BackgroundAudits:
    database: Any = FakeDatabase()
    return BackgroundAudits(database, auditor, Background(wait_seconds, **options))


def test_operators_whose_data_is_slow_delay_no_other_operator() -> None:
    auditor = ScriptedAuditor()
    background = Background(wait_seconds=0)
    database: Any = FakeDatabase()
    hurried = BackgroundAudits(database, auditor, background)  # type: ignore[arg-type]
    for _ in range(2):
        failed = hurried.follow([SLOW])
        assert isinstance(failed[SLOW], Unavailable)
        assert "still being fetched" in failed[SLOW].message
    assert wait_for(lambda: auditor.audited == [SLOW])
    hurried.follow([HONEST])
    assert wait_for(lambda: HONEST in auditor.current)
    assert hurried.follow([HONEST, SLOW]).keys() == {SLOW}
    assert auditor.audited == [SLOW, HONEST]
    auditor.release.set()


def test_requests_share_one_audit_of_an_operator() -> None:
    started = []

    class Counting(Background):
        def start(self, key: Hashable, turn: Callable[[], bool], **options: Any) -> Work:
            work = super().start(key, turn, **options)
            started.append(work)
            return work

    auditor, database = ScriptedAuditor(), FakeDatabase()
    audits = BackgroundAudits(database, auditor, Counting(wait_seconds=60))  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as requests:
        answers = [requests.submit(audits.follow, [SLOW]) for _ in range(8)]
        assert wait_for(lambda: len(started) == 8)
        auditor.release.set()
        assert [answer.result() for answer in answers] == [{}] * 8
    assert auditor.audited == [SLOW]


def test_no_more_operators_than_the_limit_are_audited_at_the_same_time() -> None:
    operators = [some_account(f"slow {number}") for number in range(3 * MAX_THREADS)]
    auditor = ScriptedAuditor(slow=operators)
    with ThreadPoolExecutor(1) as requests:
        answer = requests.submit(audits_of(auditor).follow, operators)
        assert wait_for(lambda: auditor.num_running == MAX_THREADS)
        auditor.release.set()
        assert answer.result() == {}
    assert auditor.most_running == MAX_THREADS


def test_operators_with_many_batches_take_turns() -> None:
    class Long(ScriptedAuditor):
        def follow(self, operator: Account, is_turn_over: Callable[[], bool]) -> None:
            """Three turns for each operator."""
            self.release.wait()
            self.audited.append(operator)
            if self.audited.count(operator) == 3:
                self.current.add(operator)

    operators, auditor = [some_account(f"long {number}") for number in range(3)], Long()
    audits = audits_of(auditor, max_threads=1)
    with ThreadPoolExecutor(3) as requests:
        answers = []
        for number, operator in enumerate(operators, start=1):
            answers.append(requests.submit(audits.follow, [operator]))
            assert wait_for(lambda number=number: len(audits._background._latest) == number)
        auditor.release.set()
        assert [answer.result() for answer in answers] == [{}] * 3
    assert auditor.audited == operators * 3


def test_what_was_committed_after_an_audit_began_is_audited_too() -> None:
    class Late(ScriptedAuditor):
        def follow(self, operator: Account, is_turn_over: Callable[[], bool]) -> None:
            super().follow(operator, is_turn_over)
            self.commits = max(self.commits - 1, 0)

        def is_current(self, tx: object, operator: Account) -> bool:
            is_worker = threading.current_thread().name == "background"
            return operator in self.current and (is_worker or not self.commits)

    auditor = Late()
    auditor.commits = 3
    assert audits_of(auditor).follow([HONEST]) == {}
    assert auditor.audited == [HONEST] * 3


def test_an_audit_that_failed_is_repeated_after_as_much_time_as_it_took() -> None:
    now = [0.0]

    class Failing(ScriptedAuditor):
        def follow(self, operator: Account, is_turn_over: Callable[[], bool]) -> None:
            now[0] += 30
            super().follow(operator, is_turn_over)

    auditor = Failing({WRONG: Conflict("the batch is wrong")})
    audits = audits_of(auditor, clock=lambda: now[0])
    errors = [audits.follow([WRONG])[WRONG] for _ in range(3)]
    assert [error.message for error in errors] == ["the batch is wrong"] * 3
    assert all(error.__traceback__ is None for error in errors), "it would keep the batch's data"
    assert len(set(map(id, errors))) == 3, "each request raises its own"
    assert auditor.audited == [WRONG]
    now[0] += 30
    del auditor.errors[WRONG]
    assert audits.follow([WRONG]) == {}
    assert auditor.audited == [WRONG, WRONG]


def test_an_unexpected_failure_is_told_as_one_of_that_operator() -> None:
    failed = audits_of(ScriptedAuditor({WRONG: KeyError("secret")})).follow([HONEST, WRONG])
    assert failed.keys() == {WRONG}
    assert isinstance(failed[WRONG], Unavailable)
    assert "reading its data failed" in failed[WRONG].message
    assert "secret" not in failed[WRONG].message


def test_no_more_requests_than_the_limit_wait_at_once() -> None:
    """They wait in the threads that serve all requests."""
    operators = [some_account(f"slow {number}") for number in range(MAX_WAITING)]
    auditor = ScriptedAuditor(slow=[*operators, SLOW])
    audits = audits_of(auditor)
    with ThreadPoolExecutor(MAX_WAITING) as requests:
        answers = [requests.submit(audits.follow, [operator]) for operator in operators]
        assert wait_for(lambda: not audits._background._places._value)
        failed = audits.follow([SLOW])
        assert "try again" in failed[SLOW].message
        auditor.release.set()
        assert [answer.result() for answer in answers] == [{}] * MAX_WAITING
    assert audits.follow([SLOW]) == {}


def test_work_is_refused_while_as_much_as_may_wait_does() -> None:
    release, background = threading.Event(), Background(60, max_threads=1, max_queued=1)
    begun = threading.Event()

    def turn() -> bool:
        begun.set()
        return release.wait()

    started = [background.start("runs", turn)]
    assert begun.wait(60)
    started.append(background.start("waits", turn))
    with pytest.raises(Unavailable, match="try again later"):
        background.start("refused", turn)
    assert background.start("waits", turn) is started[1], "no more work"
    release.set()
    assert [background.error(work, background.clock()) for work in started] == [None, None]
    assert background.error(background.start("refused", turn), background.clock()) is None


def test_an_audit_of_a_named_operator_is_not_behind_those_of_many_others() -> None:
    many = [some_account(f"many {number}") for number in range(4)]
    auditor = ScriptedAuditor(slow=[SLOW])
    background = Background(0, max_threads=1, max_queued=2)
    database: Any = FakeDatabase()
    audits: Any = BackgroundAudits(database, auditor, background)  # type: ignore[arg-type]
    audits.follow([SLOW])
    assert wait_for(lambda: auditor.audited == [SLOW])
    failed = audits.follow(many)
    assert ["too much" in failed[one].message for one in many] == [False, False, True, True]
    audits.follow([HONEST], is_urgent=True)
    audits.follow([many[1]], is_urgent=True)
    auditor.release.set()
    assert wait_for(lambda: len(auditor.current) == 4)
    assert auditor.audited == [SLOW, many[1], HONEST, many[0]]


def test_threads_end_when_nothing_is_left_to_do() -> None:
    before = set(threading.enumerate())
    assert audits_of(ScriptedAuditor(slow=())).follow([SLOW, HONEST]) == {}
    assert wait_for(lambda: not set(threading.enumerate()) - before)


# --- no connection of the database is held while data is fetched ---


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path, max_price=500_000)
    yield harness
    harness.database.close()


def test_no_transaction_is_open_while_batch_data_is_read(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    (signed, *_) = settle_batches(harness, 2)
    pool: Any = harness.database.engine.pool
    num_open, names = [], harness.blobs.names

    def spied(cid: Cid) -> dict[str, int]:
        num_open.append(pool.checkedout())
        return names(cid)

    monkeypatch.setattr(harness.blobs, "names", spied)
    earner = some_account("creator 1")
    assert harness.earnings().entries(EarningsQuery(earner), None, 100).entries
    assert harness.claims().claimable(earner) is not None
    list(harness.auditor().audit(harness.market.operator))
    harness.auditor().batch(harness.market.operator, 2)
    harness.earned_receipts().get(earner, receipt_id(signed.receipt))
    assert set(num_open) == {0}
