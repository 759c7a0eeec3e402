"""RabbitMQ closes the channel of a worker that leaves a message unacknowledged for `consumer_timeout`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import rabbitmq_server
from workers.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from kombu import Connection

WORKER = Path(__file__).with_name("busy_worker.py")
TIMEOUT, LOOK = 1000, 2000
"""Milliseconds: of the consumer, and between two looks at it."""
JOBS = ("3", "3.1", "0")
"""Seconds. The first one is in the queue before the worker, which reads what follows while it starts."""
pytestmark = [pytest.mark.deep, pytest.mark.timeout(300)]


@pytest.fixture
def broker_url() -> Iterator[str]:
    options = f"-rabbit consumer_timeout {TIMEOUT} -rabbit channel_tick_interval {LOOK}"
    with rabbitmq_server(options) as url:
        yield url


def test_a_worker_goes_on_after_a_job_that_took_longer_than_the_broker_waits(
    broker_url: str, tmp_path: Path
) -> None:
    app = create_app(tmp_path, broker_url)
    log = tmp_path / "worker.log"
    command = [sys.executable, str(WORKER), str(tmp_path), broker_url]
    with app.connection_for_write() as connection, log.open("wb") as errors:
        _ask(app, connection, JOBS[0])
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as worker:
            try:
                assert worker.stdout is not None
                assert worker.stdout.readline().strip() == JOBS[0], log.read_text()
                for job_id in JOBS[1:]:
                    _ask(app, connection, job_id)
                    assert worker.stdout.readline().strip() == job_id, log.read_text()
            finally:
                worker.kill()
    assert log.read_text().count("Connection to broker lost") == 2, "the broker closed the channel twice"


def _ask(app: Celery, connection: Connection, job_id: str) -> None:
    app.send_task("training.train", kwargs={"job_id": job_id}, connection=connection)
