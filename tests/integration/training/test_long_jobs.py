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

WORKER = Path(__file__).with_name("busy_worker.py")
TIMEOUT, LOOK = 1000, 2000
"""Milliseconds: of the consumer, and between two looks at it."""
LONG, SHORT = "3", "0"
"""Seconds."""
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
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as worker,
        app.connection_for_write() as connection,
    ):
        try:
            assert worker.stdout is not None
            for job_id in (LONG, SHORT):
                app.send_task("training.train", kwargs={"job_id": job_id}, connection=connection)
                assert worker.stdout.readline().strip() == job_id, log.read_text()
            assert "Connection to broker lost" in log.read_text(), "the broker closed the channel"
        finally:
            worker.kill()
