"""The smallest run through real processes, and what is made of runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from backend.chain.local_node import ROOT
from benchmarks.ledger.__main__ import main, report_of
from benchmarks.ledger.gas import Market, claim_dollars, gas_per_thousand, share_of_revenue
from benchmarks.ledger.load import Load
from benchmarks.ledger.measure import ALL, NONE, RECEIPTS, Size
from tests.support.processes import is_running
from tests.support.waiting import wait_for
from tools.chaos.market import children

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.deep
def test_answers_are_timed_with_and_without_the_ledger(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--repeats", "1", "--clients", "2", "--answers", "4", "--tokens", "5", "--threads", "1"]
    assert main(["--json", "--model", str(tiny_model), "--folder", str(tmp_path), *small]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["rows"]] == [NONE, RECEIPTS, ALL]
    assert all(row["tokens_per_second"]["median"] > 0 for row in report["rows"])
    assert all(row["ttft_p50_ms"]["median"] > 0 for row in report["rows"])
    assert (report["method"], report["num_contributors"]) == ("distilled-1", 64)


@pytest.mark.deep
def test_a_terminated_run_leaves_no_processes(tiny_model: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_model), "--folder", str(tmp_path), "--threads", "1", "--answers", "100000"]
    command = [sys.executable, "-m", "benchmarks.ledger", *options]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        try:
            assert wait_for(lambda: list(tmp_path.glob("**/engine.sock")), 60), "no engine has started"
            engine_and_apis = children(process.pid)
            assert len(engine_and_apis) == 3
        finally:
            process.terminate()
    assert wait_for(lambda: not any(map(is_running, engine_and_apis)))


def load(seconds: float, first_after: float) -> Load:
    return Load(seconds, 100, [first_after] * 2, 0.01)


def test_figures_compare_runs_of_the_same_repeat() -> None:
    runs = {
        NONE: [load(1, 0.1), load(2, 0.2)],
        RECEIPTS: [load(1.25, 0.11), load(2.5, 0.21)],
        ALL: [load(2, 0.15), load(4, 0.25)],
    }
    report = report_of(runs, Size())
    assert report["figures"]["receipts_tokens_s_ratio"] == pytest.approx(0.8)
    assert report["figures"]["ledger_tokens_s_ratio"] == pytest.approx(0.5)
    assert report["figures"]["receipts_ttft_added_ms"] == pytest.approx(10)
    assert report["figures"]["attribution_ttft_added_ms"] == pytest.approx(40)
    assert report["is_quiet"]


def test_gas_is_that_of_a_batch_divided_by_its_answers() -> None:
    gas = {
        "commit_batch": 70_000,
        "finalise": 50_000,
        "voucher_session_key_in_batch_50": 20_000,
        "claim_repeat_depth_20": 80_000,
    }
    market = Market(1_000, 500, 0.2, 0.4, answers_per_payer=100, dollars_per_ether=2_000)
    assert market.revenue == pytest.approx(0.4)
    assert gas_per_thousand(gas, 1_000, market) == 70_000 + 50_000 + 10 * 20_000
    assert gas_per_thousand(gas, 10_000, market) == (70_000 + 50_000 + 100 * 20_000) / 10
    assert share_of_revenue(320_000, 0.01, market) == pytest.approx(320_000 * 0.01e-9 * 2_000 / 0.4)
    assert claim_dollars(gas, 1, market) == pytest.approx(80_000e-9 * 2_000)
