from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from backend.db.tables.outbox import OutboxRow
from workers.app import QUEUE_BY_TASK, QUEUES, create_app
from workers.relay import RETENTION, Relay

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


class Broker:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.is_away = False

    def send(self, task: str, payload: Any) -> None:
        if self.is_away:
            raise ConnectionError("broker away")
        self.sent.append((task, dict(payload)))


@pytest.fixture
def broker() -> Broker:
    return Broker()


def add(database: Database, key: str) -> None:
    with database.begin() as tx:
        tx.outbox.add("training.train", {"job_id": key}, key)


def test_messages_leave_once_and_in_order(sqlite_database: Database, broker: Broker) -> None:
    relay = Relay(sqlite_database, broker.send, ())
    add(sqlite_database, "a")
    add(sqlite_database, "b")
    assert relay.run_once() == 2
    assert relay.run_once() == 0
    assert broker.sent == [("training.train", {"job_id": "a"}), ("training.train", {"job_id": "b"})]


def test_a_message_waits_while_the_broker_is_away(sqlite_database: Database, broker: Broker) -> None:
    relay = Relay(sqlite_database, broker.send, ())
    add(sqlite_database, "a")
    broker.is_away = True
    assert relay.run_once() == 0
    with sqlite_database.begin() as tx:
        assert not tx.outbox.due(10)  # it waits before it is tried again


def test_a_delivered_message_is_forgotten_after_a_day_and_a_waiting_one_never(
    sqlite_database: Database, broker: Broker
) -> None:
    relay = Relay(sqlite_database, broker.send, ())
    for key in ("old", "new"):
        add(sqlite_database, key)
    relay.run_once()
    add(sqlite_database, "waiting")
    long_ago = datetime.now(UTC) - RETENTION - timedelta(minutes=1)
    with sqlite_database.begin() as tx:
        tx.session.execute(update(OutboxRow).values(created_at=long_ago))
        tx.session.execute(update(OutboxRow).filter_by(key="old").values(delivered_at=long_ago))
    relay.sweep()
    with sqlite_database.begin() as tx:
        assert list(tx.session.scalars(select(OutboxRow.key).order_by(OutboxRow.id))) == ["new", "waiting"]


def test_a_sweep_that_fails_stops_neither_the_relay_nor_other_sweeps(
    sqlite_database: Database, broker: Broker
) -> None:
    stop = threading.Event()
    seen = []

    def sweep() -> None:
        raise RuntimeError("the database went away")

    def send(task: str, payload: Any) -> None:
        broker.send(task, payload)
        stop.set()

    add(sqlite_database, "a")
    relay = Relay(sqlite_database, send, (sweep, lambda: seen.append(1)))
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert seen
    assert broker.sent


def test_every_task_has_a_queue_and_messages_are_json_files_below_home(tmp_path: Path) -> None:
    app = create_app(tmp_path)
    for task, queue in QUEUE_BY_TASK.items():
        app.send_task(task, kwargs={"job_id": "ftjob-1"})
        (message,) = (tmp_path / "broker" / "messages").glob(f"*.{queue}.msg")
        assert b"ftjob-1" in message.read_bytes() or b"application/json" in message.read_bytes()
        message.unlink()
    assert set(QUEUE_BY_TASK.values()) == set(QUEUES)
    assert app.conf.accept_content == ["json"]


def test_messages_are_never_seen_half_written_and_come_in_order(tmp_path: Path) -> None:
    app = create_app(tmp_path)
    folder = tmp_path / "broker" / "messages"
    is_done = threading.Event()
    sizes: set[int] = set()

    def look() -> None:
        while not is_done.is_set():
            sizes.update(path.stat().st_size for path in folder.glob("*.msg"))

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(50):
        app.send_task("training.train", kwargs={"job_id": f"{number:02}"})
    is_done.set()
    watcher.join()
    assert len(sizes) <= 3  # a message's length depends on the digits of its time alone
    with app.connection_for_read() as connection:
        channel = connection.channel()
        taken = [channel._get("train")["headers"]["kwargsrepr"] for _ in range(50)]
    assert taken == [repr({"job_id": f"{number:02}"}) for number in range(50)]


def test_another_broker_is_a_url_away(tmp_path: Path) -> None:
    app = create_app(tmp_path, "redis://127.0.0.1:1/0")
    assert app.conf.broker_url == "redis://127.0.0.1:1/0"
    assert not (tmp_path / "broker").exists()
