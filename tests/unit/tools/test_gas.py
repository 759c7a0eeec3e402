"""`tools.gas --check` reports stale snapshots of gas and code sizes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tools import gas

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gas, "SNAPSHOTS", tmp_path)
    monkeypatch.setattr(gas, "gas", lambda: {"claim": 81_000, "vote": 68_000})
    monkeypatch.setattr(gas, "code_sizes", lambda: {"Disputes": 23_000})
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gas.py"])
    gas.main()


def check(monkeypatch: pytest.MonkeyPatch) -> str | int | None:
    """Run `--check` and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["gas.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        gas.main()
    return ended.value.code


def test_a_new_snapshot_is_not_stale(snapshots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch)
    assert json.loads((snapshots / "code_size.json").read_text()) == {"Disputes": 23_000}
    assert check(monkeypatch) == 0


def test_each_changed_added_or_removed_figure_is_reported_and_nothing_is_written(
    snapshots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch)
    stale = json.dumps({"claim": 80_000, "gone": 1})
    (snapshots / "gas.json").write_text(stale)
    assert str(check(monkeypatch)).splitlines() == [
        "gas.json: claim is 81000, not 80000",
        "gas.json: gone is None, not 1",
        "gas.json: vote is 68000, not None",
        "Run `make gas` and commit tests/snapshots.",
    ]
    assert (snapshots / "gas.json").read_text() == stale


def test_a_missing_snapshot_is_stale(snapshots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch)
    (snapshots / "code_size.json").unlink()
    assert "code_size.json: Disputes is 23000, not None" in str(check(monkeypatch))
