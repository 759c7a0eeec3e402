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
from backend.services.audit.background import MAX_THREADS, BackgroundAudits
from tests.support.market import some_account
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle_batches
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
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
        self.num_running = self.most_running = 0

    def is_current(self, _: object, operator: Account) -> bool:
        return operator in self.current

    def follow(self, operator: Account) -> None:
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
    return BackgroundAudits(database, auditor, wait_seconds, **options)


def test_an_operator_whose_data_is_slow_delays_no_other_operator() -> None:
    auditor = ScriptedAuditor()
    audits = audits_of(auditor, wait_seconds=0)
    failed = audits.follow([SLOW])
    assert isinstance(failed[SLOW], Unavailable)
    assert "still being fetched" in failed[SLOW].message
    patient = audits_of(auditor)
    assert patient.follow([HONEST]) == {}
    assert audits.follow([SLOW]).keys() == {SLOW}
    assert auditor.audited == [SLOW, HONEST]
    auditor.release.set()


def test_one_audit_of_an_operator_runs_at_a_time_and_requests_share_it() -> None:
    auditor = ScriptedAuditor()
    audits = audits_of(auditor)
    with ThreadPoolExecutor(8) as requests:
        answers = [requests.submit(audits.follow, [SLOW]) for _ in range(8)]
        assert wait_for(lambda: auditor.audited)
        auditor.release.set()
        assert [answer.result() for answer in answers] == [{}] * 8
    assert auditor.most_running == 1


def test_no_more_operators_than_the_limit_are_audited_at_the_same_time() -> None:
    operators = [some_account(f"slow {number}") for number in range(3 * MAX_THREADS)]
    auditor = ScriptedAuditor(slow=operators)
    with ThreadPoolExecutor(1) as requests:
        answer = requests.submit(audits_of(auditor).follow, operators)
        assert wait_for(lambda: auditor.num_running == MAX_THREADS)
        auditor.release.set()
        assert answer.result() == {}
    assert auditor.most_running == MAX_THREADS


def test_an_audit_that_failed_is_repeated_after_as_much_time_as_it_took() -> None:
    now = [0.0]

    class Failing(ScriptedAuditor):
        def follow(self, operator: Account) -> None:
            now[0] += 30
            super().follow(operator)

    auditor = Failing({WRONG: Conflict("the batch is wrong")})
    audits = audits_of(auditor, clock=lambda: now[0])
    for _ in range(3):
        assert audits.follow([WRONG])[WRONG].message == "the batch is wrong"
    assert auditor.audited == [WRONG]
    now[0] += 30
    del auditor.errors[WRONG]
    assert audits.follow([WRONG]) == {}
    assert audits.follow([WRONG]) == {}
    assert auditor.audited == [WRONG, WRONG]


def test_an_unexpected_failure_is_told_as_one_of_that_operator() -> None:
    audits = audits_of(ScriptedAuditor({WRONG: KeyError("receipts")}))
    failed = audits.follow([HONEST, WRONG])
    assert failed.keys() == {WRONG}
    assert isinstance(failed[WRONG], Unavailable)
    assert "cannot be audited" in failed[WRONG].message


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
