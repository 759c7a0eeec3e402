from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.training.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_report_has_what_was_measured_and_nothing_else(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--megabytes", "0.3", "--near-megabytes", "0.2", "--rows", "16", "--repeats", "1"]
    places = ["--base-model", str(tiny_model), "--work", str(tmp_path / "work")]
    assert main(["--json", *sizes, "--threads", "1", *places]) == 0
    report = json.loads(capsys.readouterr().out)
    ours = {"train_vs_plain_trainer", "capture_overhead"}
    assert set(report["figures"]) == {"validate_mb_s", "near_duplicates_mb_s", "validate_peak_mb", *ours}
    assert all(value > 0 for value in report["figures"].values())
    assert all(value > 0 for value in report["by_processor"].values())
    assert [len(runs) for runs in report["training"].values()] == [1, 1]
    assert 0 <= report["foreign_share"] <= 1
