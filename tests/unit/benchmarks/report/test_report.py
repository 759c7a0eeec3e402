"""The report page, its chart, and rejected inputs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.api.__main__ import report_of as rates_of
from benchmarks.api.figures import Row
from benchmarks.engine.contestant import Run
from benchmarks.engine.figures import ratios, row
from benchmarks.engine.launcher import LLAMA, OURS, SETTINGS, VLLM
from benchmarks.engine.machine import describe
from benchmarks.engine.measure import Measurement
from benchmarks.engine.scenarios import Results
from benchmarks.ledger.__main__ import report_of
from benchmarks.ledger.load import Load
from benchmarks.ledger.measure import ALL, NONE, RECEIPTS, Size
from benchmarks.report.__main__ import DOCS, KEPT, OTHERS, PAGE, main
from benchmarks.report.chart import bar_chart
from benchmarks.report.page import BARS, CHART, LIMITS, PARTS, WORK, chart, cost_of_million, page

if TYPE_CHECKING:
    from pathlib import Path

SPEEDS = {
    (OURS, "base"): 1200,
    (OURS, "lora32"): 1000,
    (OURS, "zipf5"): 800,
    (OURS, "zipf1000"): 760,
    (VLLM, "lora32"): 250,
    (LLAMA, "base"): 1100,
}


@pytest.fixture
def report() -> dict[str, Any]:
    results = Results(
        {
            entry: [Run(Measurement(1.0, speed, [0.1], [0.01, 0.02], 2**30, 2**30), 0.01, 0)]
            for entry, speed in SPEEDS.items()
        }
    )
    found = ratios(results)
    return {
        "ratios": {name: ratio and ratio.value for name, ratio in found.items()},
        "ranges": {name: ratio and asdict(ratio) for name, ratio in found.items()},
        "rows": [row(entry, runs) for entry, runs in results.runs.items()],
        "is_quiet": True,
        "machine": describe(),
        "commit": "0123abc",
        "num_threads": 2,
        "num_repeats": 1,
        "versions": {OURS: "torch 2"},
        "settings": SETTINGS,
        "finished_at": "2030-01-01T00:00:00+00:00",
    }


def test_the_committed_page_is_that_of_the_committed_report() -> None:
    """After a change of gas or of the templates, run `python -m benchmarks.report` to regenerate it."""
    engine = json.loads((DOCS / KEPT).read_text())
    others = {name: json.loads((DOCS / kept).read_text()) for name, kept in OTHERS.items()}
    assert (DOCS / PAGE).read_text() == page(engine, **others)
    assert all(report["is_quiet"] for report in (engine, *others.values()))


def test_without_a_report_every_figure_is_missing_and_none_is_given() -> None:
    text = page(None)
    assert all(f"- {about} (target: {bar})" in text for about, bar in BARS.values())
    assert "| measured |" not in text


def test_figures_are_given_with_their_range_and_the_others_named_as_missing(report: dict[str, Any]) -> None:
    text = page(report)
    assert "against vLLM's CPU build | >= 4.5 | **4** | 4 to 4 |" in text
    assert "- 32 different adapters: throughput against PEFT's mixed batch (target: >= 12)" in text
    assert "32 different adapters against no adapter: 0.833 (0.833 to 0.833)." in text
    assert "Any GPU" in text


def test_rows_of_which_a_repeat_was_disturbed_are_named(report: dict[str, Any]) -> None:
    assert "In a repeat of these rows" not in page(report)
    measured = Measurement(1.0, 900, [0.1], [0.01, 0.02], 1, 1)
    runs = [Run(measured, share, 0) for share in (0.01, 0.02, 0.5)]
    report["rows"].append(row((OURS, "chat"), runs))
    text = page(report)
    assert "of the processor: loraledger, 4 chats of ten turns (50%). A median" in text
    assert "| 2% (50%) | 0 |" in text


def test_percentiles_have_the_range_of_the_repeats(report: dict[str, Any]) -> None:
    assert "| 100.0 (100.0 to 100.0), - | 10.0 (10.0 to 10.0), - |" in page(report)
    assert "over all repeats together" not in page(report)
    report["rows"][0]["ttft_ms"]["p50"] = {"median": 123.0}  # of an earlier version
    assert "| 123.0, - |" in page(report)
    assert "over all repeats together" in page(report)


def test_a_profiled_step_is_reported_with_the_limits_of_the_machine(report: dict[str, Any]) -> None:
    parts = {f"{name}_ms": 2.0 for name in PARTS} | {"step_ms": 12.0}
    measured = Measurement(1.0, 900, [0.1], [0.01, 0.02], 1, 1, parts | dict.fromkeys(LIMITS, 4.0))
    assert "Time of a decode step" not in page(report)
    report["rows"] += [
        row((OURS, f"profile_{name}"), [Run(measured, 0.01, 0)]) for name in ("base", "lora32")
    ]
    text = page(report)
    assert "| whole step | **12.0** | **12.0** |" in text
    assert "| attention | 2.0 | 2.0 |" in text
    assert "The rows of 32 adapters are 4 MB per step. At that rate they take 1.0 ms" in text
    assert "Each distinct adapter costs a step 0.00 ms, of which 0.03 ms are that reading." in text
    assert "| 900 |" not in text


def test_the_cost_of_many_adapters_is_compared_with_that_of_few(report: dict[str, Any]) -> None:
    assert "Cost of many adapters" not in page(report)
    for scenario, value in (("zipf5", 1.0), ("zipf1000", 2.5)):
        measured = Measurement(1.0, 800, [0.1], [0.01, 0.02], 1, 1, dict.fromkeys(WORK, value))
        report["rows"] = [one for one in report["rows"] if one["scenario"] != scenario]
        report["rows"].append(row((OURS, scenario), [Run(measured, 0.01, 0)]))
    text = page(report)
    assert "| per request | 5 adapters, Zipf | 1,000 adapters, Zipf |" in text
    assert "| adapters loaded | 1.00 | 2.50 |" in text


def test_a_chart_has_a_bar_for_every_row_in_the_order_of_scenarios(report: dict[str, Any]) -> None:
    tree = ET.fromstring(chart(report))  # noqa: S314 - made two lines above
    bars = [node for node in tree.iter() if node.tag.endswith("rect")]
    assert len(bars) == len(SPEEDS)
    widths = [float(node.attrib["width"]) for node in bars]
    assert widths[0] == max(widths)
    assert widths[1] / widths[0] == pytest.approx(1100 / 1200, rel=0.01)


def test_labels_are_escaped_and_an_empty_chart_is_refused() -> None:
    with pytest.raises(ValueError, match="needs bars"):
        bar_chart("a < b", [])


def test_the_cost_of_a_token_is_compared_with_other_engines_on_the_same_machine(
    report: dict[str, Any],
) -> None:
    assert cost_of_million(price_per_hour=3.6, tokens_per_second=1000) == pytest.approx(1.0)
    text = page(report, price_per_hour=3.6)
    assert "| loraledger | 32 different adapters | 1,000 | 1.000 |" in text
    assert "| loraledger | 1,000 adapters | 950 | 1.053 |" in text
    assert "| vllm | 32 different adapters | 250 | 4.000 |" in text


def test_long_prompts_have_a_table_of_their_own(report: dict[str, Any]) -> None:
    assert "## Long prompts" not in page(report)
    for name, length, speed in ((OURS, 1000, 2000.0), (OURS, 4000, 1600.0), (LLAMA, 1000, 1500.0)):
        measured = Measurement(1.0, 2, [0.1], [0.01, 0.02], 1, 1, {"prompt_tokens_per_second": speed})
        report["rows"].append(row((name, f"prefill{length}"), [Run(measured, 0.01, 0)]))
    text = page(report)
    assert "| prompt tokens/s | 4 prompts of 1,000 tokens | 4 prompts of 4,000 tokens |" in text
    assert "| loraledger | 2,000 | 1,600 |" in text
    assert "| llama.cpp | 1,500 |  |" in text  # not run at this length


def test_a_report_is_written_with_its_chart(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text(json.dumps(report))
    out = tmp_path / "docs"
    assert main([str(tmp_path / "engine.json"), "--out", str(out), "--price-per-hour", "0.5"]) == 0
    assert "at 0.50 per hour" in (out / PAGE).read_text()
    assert (out / CHART).exists()
    assert json.loads((out / KEPT).read_text()) == report


def test_a_report_of_a_busy_machine_never_reaches_the_docs(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "engine.json").write_text(json.dumps({**report, "is_quiet": False}))
    assert main([str(tmp_path / "engine.json")]) == 1
    assert "busy machine" in capsys.readouterr().err
    assert main([str(tmp_path / "engine.json"), "--out", str(tmp_path / "docs")]) == 0


def test_reports_of_other_groups_are_merged(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Measurement(1.0, 300, [0.1], [0.01, 0.02], 1, 1)
    other = {
        **report,
        "rows": [row((OURS, "chat"), [Run(measured, 0.01, 0)])],
        "ratios": dict.fromkeys(report["ratios"]) | {"lookup_copying": 2.0},
        "ranges": dict.fromkeys(report["ranges"]) | {"lookup_copying": {"value": 2.0, "low": 1.5, "high": 3}},
        "finished_at": "2030-01-02T00:00:00+00:00",
    }
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, content in zip(files, (report, other), strict=True):
        file.write_text(json.dumps(content))
    out = ["--out", str(tmp_path / "docs")]
    assert main([*map(str, files), *out]) == 0
    merged = json.loads((tmp_path / "docs" / KEPT).read_text())
    assert len(merged["rows"]) == len(SPEEDS) + 1
    assert merged["ratios"] == report["ratios"] | {"lookup_copying": 2.0}
    assert merged["finished_at"] == other["finished_at"]
    assert main([str(files[0]), str(files[0]), *out]) == 1
    assert "two reports have the row loraledger / base" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_threads": 1}, "differ in num_threads: 2 and 1"),
        ({"commit": None}, "differ in commit: 0123abc and None"),
        ({"settings": {OURS: "fp32"}}, "differ in settings"),
        ({"versions": {OURS: "torch 3"}}, "differ in the version of loraledger: torch 2 and torch 3"),
        ({"machine": describe() | {"cpu_model": "family 1"}}, "differ in machine"),
    ],
)
def test_reports_of_another_code_or_machine_are_not_merged(
    report: dict[str, Any],
    change: dict[str, Any],
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, content in zip(files, (report, {**report, "rows": [], **change}), strict=True):
        file.write_text(json.dumps(content))
    assert main([*map(str, files), "--out", str(tmp_path / "docs")]) == 1
    assert text in capsys.readouterr().err


def test_the_page_says_which_code_and_processor_were_measured(report: dict[str, Any]) -> None:
    text = page(report)
    assert "; commit 0123abc; 2030-01-01" in text
    assert f"{describe()['cpu']} ({describe()['cpu_model']}), " in text
    del report["commit"], report["machine"]["cpu_model"]  # as earlier versions stored them
    assert "(model not recorded), " in page(report)
    assert "; commit not recorded; " in page(report)


def ledger_report() -> dict[str, Any]:
    loads = [Load(2.0, 200, [0.1, 0.2], 0.01)]
    return report_of({NONE: loads, RECEIPTS: [Load(2.5, 200, [0.1, 0.25], 0.01)], ALL: loads}, Size())


def test_the_cost_of_receipts_has_its_times_and_its_gas(tmp_path: Path) -> None:
    assert "Not yet measured on an idle machine." in page(None)
    (tmp_path / "ledger.json").write_text(json.dumps(ledger_report()))
    out = tmp_path / "docs"
    assert main(["--ledger", str(tmp_path / "ledger.json"), "--out", str(out)]) == 0
    text = (out / PAGE).read_text()
    assert "| receipts, compared with neither | 0.800 (0.800 to 0.800) | 25.0 (25.0 to 25.0) |" in text
    assert "| neither | 100 (100 to 100) |" in text
    assert "to 64 contributors by `distilled-1`: the engine's vectors" in text
    assert "gwei per gas" in text
    assert main(["--out", str(out)]) == 0  # from what is kept
    assert (out / PAGE).read_text() == text


def test_the_rates_on_both_databases_are_compared(tmp_path: Path) -> None:
    rates = {"receipts_signed_s": 1000, "receipts_signed_postgresql_s": 500, "events_indexed_s": 9000}
    rows = [
        Row(name, f"method of {name}", (rate - 10.0, rate, rate + 10.0), (0.0,) * 3)
        for name, rate in {**rates, "events_indexed_postgresql_s": 6000}.items()
    ]
    (tmp_path / "api.json").write_text(json.dumps(rates_of(rows)))
    assert main(["--api", str(tmp_path / "api.json"), "--out", str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs" / PAGE).read_text()
    assert "| receipts signed | 1,000 (990 to 1,010) | 500 (490 to 510) | 0.50 |" in text
    assert "| events of the chain indexed | 9,000 (8,990 to 9,010) | 6,000 (5,990 to 6,010) | 0.67 |" in text
    assert "- receipts signed: method of receipts_signed_postgresql_s." in text


def test_a_report_without_all_rates_names_those_that_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "api.json").write_text(json.dumps(rates_of([Row("receipts_signed_s", "", (1.0,), (0.0,))])))
    assert main(["--api", str(tmp_path / "api.json"), "--out", str(tmp_path / "docs")]) == 1
    lacking = "receipts_signed_postgresql_s, events_indexed_s, events_indexed_postgresql_s"
    assert f"lacks {lacking}; run it with --only receipts events" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


def test_rates_of_a_busy_machine_are_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "api.json").write_text(json.dumps(rates_of([Row("receipts_signed_s", "", (1.0,), (0.5,))])))
    before = (DOCS / PAGE).read_text()
    assert main(["--api", str(tmp_path / "api.json")]) == 1
    assert "comes from a busy machine" in capsys.readouterr().err
    assert (DOCS / PAGE).read_text() == before


def test_another_method_than_the_default_is_named_as_such() -> None:
    report = ledger_report()
    text = page(None, ledger=report | {"method": "error-ridge-1"})
    assert "by `error-ridge-1` (`distilled-1`, the default, is not measured yet):" in text
    assert "token leave out the first answer of each client" in text
    del report["commit"]  # of an earlier version
    assert "token include the first answer of each client" in page(None, ledger=report)


def test_invalid_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("{")
    assert main([str(tmp_path / "x")]) == 1
    assert "cannot be read as JSON" in capsys.readouterr().err
