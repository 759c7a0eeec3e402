from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from backend.chain.local_node import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.deep
def test_the_report_has_what_was_measured_and_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    """By the command itself: its processes look their work up by module, and a command is none."""
    sizes = ["--megabytes", "0.3", "--near-megabytes", "0.2", "--rows", "16", "--repeats", "1"]
    places = ["--base-model", str(tiny_model), "--work", str(tmp_path / "work")]
    command = [sys.executable, "-m", "benchmarks.training", "--json", "--threads", "1", *sizes, *places]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True)
    report = json.loads(done.stdout)
    ours = {"train_vs_plain_trainer", "capture_overhead", "distil_overhead"}
    assert set(report["figures"]) == {"validate_mb_s", "near_duplicates_mb_s", "validate_peak_mb", *ours}
    assert all(value > 0 for value in report["figures"].values())
    assert all(value > 0 for value in report["by_processor"].values())
    assert [len(runs) for runs in report["training"].values()] == [1, 1]
    stages = {"training", "capture", "distillation"}
    assert [len(report["capture"][stage]) for stage in stages] == [1, 1, 1]
    assert set(report["hours_per_million_tokens"]) == stages
    assert 0 <= report["foreign_share"] <= 1
