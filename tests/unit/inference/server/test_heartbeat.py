from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from backend.engine.process import EngineProcess
from inference.server.heartbeat import PERIOD_SECONDS, Heartbeat
from tests.support.engine import RunningEngine
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path


def test_an_engine_that_stops_responding_is_silent(tiny_llama: Path, tmp_path: Path) -> None:
    now = [100.0]
    heartbeat = Heartbeat(tmp_path / "e.sock", lambda: now[0])
    assert heartbeat.silence() == 0.0, "it has not started"
    options = {"dtype": "float32", "kv_budget_bytes": 4 * 1024 * 1024}
    engine = RunningEngine(EngineProcess(tmp_path / "e.sock", tiny_llama, num_threads=1, options=options))
    engine.wait_until_ready()
    try:
        heartbeat.silence()
        now[0] += 1.0
        assert wait_for(lambda: heartbeat.silence() == 0.0)
        os.kill(engine.process.pid, signal.SIGSTOP)
        now[0] += PERIOD_SECONDS
        heartbeat.silence()
        now[0] += 70.0
        assert heartbeat.silence() == 70.0
    finally:
        os.kill(engine.process.pid, signal.SIGCONT)
        engine.kill()
    assert heartbeat.silence() == 0.0, "the supervisor sees that it has ended"
