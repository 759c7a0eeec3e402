from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.training import data
from benchmarks.training.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.deep
def test_the_report_has_what_was_measured_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--megabytes", "0.3", "--near-megabytes", "0.2", "--rows", "0"]
    assert main(["--json", *sizes, "--work", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["figures"]) == {"validate_mb_s", "near_duplicates_mb_s", "validate_peak_mb"}
    assert all(value > 0 for value in report["figures"].values())
    assert 0 <= report["foreign_share"] <= 1


def test_a_check_that_misses_planted_near_duplicates_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.contribute.check_upload.NEAR_PPM", 2_000_000)
    with pytest.raises(AssertionError, match="near duplicates were missed"):
        data.measure(data.Sizes(100_000, 100_000), tmp_path)


def test_rows_are_the_same_for_the_same_seed() -> None:
    one = list(data.rows(20_000, seed=1))
    assert one == list(data.rows(20_000, seed=1)) != list(data.rows(20_000, seed=2))
    assert 20_000 <= sum(map(len, one)) < 21_000
