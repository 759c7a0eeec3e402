from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.cli.operator import watch
from backend.installation import watcher

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("options", [(), ("--challenge",), ("--once", "--no-answer")])
def test_without_an_installation_it_says_what_to_do(options: tuple[str, ...], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "backend.cli.main", "watch", *options],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LORALEDGER_HOME": str(tmp_path)},
    )
    assert result.returncode == 1
    assert "loraledger up" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that a command handles itself, with a watcher that has nothing to do."""
    found: list[int] = []
    monkeypatch.setenv("LORALEDGER_HOME", str(tmp_path))
    monkeypatch.setattr(watch.signal, "signal", lambda number, _: found.append(number))
    monkeypatch.setattr(watch.logs, "setup", lambda *_: None)
    monkeypatch.setattr(watch.metrics, "enable_multiprocess", lambda *_: None)
    idle = SimpleNamespace(run=lambda _: (), run_once=lambda: ())
    monkeypatch.setattr(watcher, "open_watcher", lambda *_: nullcontext(idle))
    withdrawn = SimpleNamespace(is_done=True, tx_hash="0x12")
    monkeypatch.setattr(watcher, "withdraw_credit", lambda *_: withdrawn)
    return found


@pytest.mark.parametrize("command", [["watch", "--once"], ["withdraw-credit"]])
def test_what_ends_by_itself_is_ended_by_signals_at_once(taken: list[int], command: list[str]) -> None:
    assert CliRunner().invoke(app, command).exit_code == 0
    assert taken == []


def test_the_endless_watch_ends_its_pass_on_signals(taken: list[int]) -> None:
    assert CliRunner().invoke(app, ["watch"]).exit_code == 0
    assert taken == [signal.SIGTERM, signal.SIGINT]
