"""Tasks continue the trace of their sender across the broker."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from telemetry import traces
from tests.support.tracing import by_name, name_of, parent_of, recorded
from workers.app import add_tasks, create_app
from workers.relay import Relay, outbox_sender

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database

CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


def message_headers(home: Path) -> dict[str, Any]:
    (message,) = (home / "broker" / "messages").glob("*.msg")
    headers: dict[str, Any] = json.loads(message.read_text())["headers"]
    return headers


def test_a_job_is_in_the_trace_of_the_request_that_made_it(tmp_path: Path, sqlite_database: Database) -> None:
    app, ran = create_app(tmp_path), []
    steps: Any = SimpleNamespace(run=lambda step, job_id: ran.append((step.value, job_id)))
    add_tasks(app, steps)
    with recorded() as spans:
        with traces.span("request", CALLER), sqlite_database.begin() as tx:
            tx.outbox.add("training.train", {"job_id": "ftjob-1"}, "one")
        assert Relay(sqlite_database, outbox_sender(app), ()).run_once() == 1
        carried = message_headers(tmp_path)[traces.TRACEPARENT]
        task = app.tasks["training.train"]
        task.push_request(**{traces.TRACEPARENT: carried})
        task(job_id="ftjob-1")
        task.pop_request()
    found = by_name(spans)
    assert parent_of(found["send training.train"]) == name_of(found["request"])
    assert carried == name_of(found["send training.train"])
    assert parent_of(found["process training.train"]) == carried
    assert ran == [("train", "ftjob-1")]


def test_without_traces_messages_carry_none(tmp_path: Path) -> None:
    app = create_app(tmp_path)
    outbox_sender(app)("training.train", {"job_id": "ftjob-1"})
    assert traces.TRACEPARENT not in message_headers(tmp_path)
