"""Contestants as processes: small scripts that speak the protocol."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from benchmarks.engine.contestant import ROOT, Contestant, ContestantError

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import os
from benchmarks.engine.measure import TokenClock
from benchmarks.engine.peer import reserve_stdout, serve

def count(number):
    print("printed by a library")
    clock = TokenClock()
    clock.submit("a")
    clock.tokens("a", number)
    return clock.measurement(number=number)

def die(number):
    os._exit(7)

def fail(number):
    raise ValueError("no such thing")

reserve_stdout()
serve({"version": "1"}, {"count": count, "die": die, "fail": fail})
"""


@dataclass
class Number:
    number: int


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "child.log"


def start(log: Path, script: str = CHILD) -> Contestant:
    return Contestant("child", [sys.executable, "-c", script], log)


def test_runs_are_answered_and_prints_go_to_the_log(log: Path) -> None:
    with start(log) as child:
        assert child.settings["version"] == "1"
        measured = [child.run("count", Number(number)).measurement for number in (3, 5)]
    assert [one.num_tokens for one in measured] == [3, 5]
    assert measured[1].extra == {"number": 5}
    assert measured[0].peak_rss_bytes >= measured[0].rss_bytes > 0
    assert "printed by a library" in log.read_text()


def test_a_failed_task_is_named_with_its_log(log: Path) -> None:
    with (
        start(log) as child,
        pytest.raises(ContestantError, match=r"child: fail failed.*no such thing.*child\.log"),
    ):
        child.run("fail", Number(1))


def test_a_contestant_that_dies_is_an_error(log: Path) -> None:
    with start(log) as child, pytest.raises(ContestantError, match="exited with status 7"):
        child.run("die", Number(1))


def test_a_contestant_that_cannot_start_is_an_error(log: Path) -> None:
    with pytest.raises(ContestantError, match="exited with status 1"):
        start(log, "raise SystemExit('no model')")
    assert "no model" in log.read_text()


def test_a_peer_is_imported_without_the_packages_of_the_project() -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import benchmarks.engine.vllm_peer"
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)
