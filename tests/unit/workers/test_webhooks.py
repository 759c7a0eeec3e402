from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from subprocess import Popen
from typing import TYPE_CHECKING

from backend.services.webhooks.delivery import CLAIM, Outcome
from tests.support.receiver import receiving
from tests.support.waiting import wait_for
from tests.support.webhooks import WebhookHarness
from workers.webhooks import WebhookRelay

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from backend.db.unit_of_work import Database


def test_a_slow_endpoint_holds_back_no_other_and_gets_one_request_at_a_time(
    sqlite_database: Database,
) -> None:
    harness = WebhookHarness(sqlite_database)
    relay = WebhookRelay(harness.deliveries, ())
    with receiving() as slow, receiving() as quick, ThreadPoolExecutor(4) as pool:
        slow.may_answer.clear()
        for receiver in (slow, quick):
            harness.register(receiver.url)
        for _ in range(2):
            harness.emit()
        assert relay.start_due(pool) == 2
        assert wait_for(lambda: len(quick.requests) == 1)
        assert wait_for(lambda: relay.start_due(pool) == 1)
        assert wait_for(lambda: len(quick.requests) == 2)
        assert len(slow.requests) == 1
        slow.may_answer.set()
        assert wait_for(lambda: relay.start_due(pool) == 1)
        assert wait_for(lambda: len(set(slow.ids)) == 2)


def test_slow_endpoints_share_a_few_threads_though_they_answer(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.webhooks.NUM_THREADS", 3)
    monkeypatch.setattr("workers.webhooks.MAX_SLOW", 1)
    monkeypatch.setattr("workers.webhooks.SLOW_SECONDS", 0.2)
    harness = WebhookHarness(sqlite_database)
    relay = WebhookRelay(harness.deliveries, ())
    with ExitStack() as stack:
        slow = [stack.enter_context(receiving()) for _ in range(3)]
        pool = stack.enter_context(ThreadPoolExecutor(3))
        for receiver in slow:
            receiver.may_answer.clear()
            harness.register(receiver.url)
        harness.emit()
        assert relay.start_due(pool) == 3
        time.sleep(0.3)
        for receiver in slow:
            receiver.may_answer.set()
        assert wait_for(lambda: all(sent.done() for sent in relay._running.values()))
        for receiver in slow:
            receiver.may_answer.clear()
        quick = stack.enter_context(receiving())
        harness.register(quick.url)
        harness.emit()
        assert relay.start_due(pool) == 2, "the quick one, and one of the slow ones"
        assert wait_for(lambda: len(quick.requests) == 1)
        assert relay.start_due(pool) == 0
        for receiver in slow:
            receiver.may_answer.set()
        assert wait_for(lambda: relay.start_due(pool) == 1), "the next slow one"


def test_a_killed_relay_s_delivery_is_sent_again_with_the_same_id(
    sqlite_database: Database, tmp_path: Path
) -> None:
    harness = WebhookHarness(sqlite_database)
    code = (
        "import sys\n"
        "from backend.db.unit_of_work import Database\n"
        "from tests.support.webhooks import WebhookHarness\n"
        "WebhookHarness(Database.open(sys.argv[1])).send_due()\n"
    )
    with receiving() as receiver:
        receiver.may_answer.clear()
        harness.register(receiver.url)
        harness.emit()
        with Popen([sys.executable, "-c", code, f"sqlite:///{tmp_path / 'embedded.db'}"]) as process:
            assert wait_for(lambda: len(receiver.requests) == 1)
            process.kill()
        receiver.may_answer.set()
        assert harness.send_due() == []
        harness.clock.now += CLAIM
        assert harness.send_due() == [Outcome.DELIVERED]
    (_, first), (_, second) = receiver.requests
    assert len(set(receiver.ids)) == 1
    assert first == second


def test_the_relay_outlives_a_sweep_that_fails_and_ends_when_told(sqlite_database: Database) -> None:
    harness, stop = WebhookHarness(sqlite_database), threading.Event()

    def sweep() -> None:
        raise RuntimeError("the database went away")

    with receiving() as receiver:
        harness.register(receiver.url)
        harness.emit()
        relay = WebhookRelay(harness.deliveries, (sweep,))
        thread = threading.Thread(target=relay.run, args=(stop,))
        thread.start()
        assert wait_for(lambda: len(receiver.requests) == 1)
        stop.set()
        started = time.monotonic()
        thread.join()
        assert time.monotonic() - started < 5
