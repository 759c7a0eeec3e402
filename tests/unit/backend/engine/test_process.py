from __future__ import annotations

from typing import TYPE_CHECKING

from backend.engine.process import EngineProcess

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_options_become_arguments(tmp_path: Path) -> None:
    spec = EngineProcess(tmp_path / "s", num_threads=3, options={"max_rank": 16})
    arguments = spec.arguments()
    assert arguments[arguments.index("--max-rank") + 1] == "16"
    assert "--model" not in arguments
    assert "--exit-with-stdin" in arguments
    assert spec.environment()["OMP_NUM_THREADS"] == "3"


def test_under_a_supervisor_without_a_pipe_it_ends_with_its_signal(tmp_path: Path) -> None:
    assert "--exit-with-stdin" not in EngineProcess(tmp_path / "s", ends_with_stdin=False).arguments()


def test_waiting_threads_spin_a_little_unless_the_user_says_how_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert EngineProcess(tmp_path / "s").environment()["GOMP_SPINCOUNT"] == "2000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in EngineProcess(tmp_path / "s").environment()
