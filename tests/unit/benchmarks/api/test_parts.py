"""Each part at the smallest size: that it runs through, counts what it says, and checks what it did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.api import __main__ as command
from benchmarks.api import events, gateway, limits, receipts
from benchmarks.api.figures import Row

if TYPE_CHECKING:
    from pathlib import Path


def test_receipts_are_counted_once_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "NUM_CLIENTS", 5)
    rows = receipts.measure(tmp_path, seconds=0.2, repeats=1)
    assert [row.name for row in rows] == ["receipts_signed_s", "receipts_signed_postgresql_s"]
    assert all(row.value > 0 for row in rows)


def test_events_are_read_from_the_node_into_the_database(tmp_path: Path) -> None:
    rows = events.measure(tmp_path, seconds=0.05, repeats=1)
    assert [row.name for row in rows] == ["events_indexed_s", "events_indexed_postgresql_s"]
    assert all(row.method.startswith("200 events") for row in rows)
    assert all(row.value > 0 for row in rows)


@pytest.mark.deep
def test_every_token_is_heard_through_the_real_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "NUM_STREAMS", 3)
    rows = {row.name: row for row in gateway.measure(tmp_path, seconds=0.5, repeats=1)}
    assert set(rows) == {
        *("gateway_p50_ms", "gateway_p99_ms", "gateway_lockstep_p50_ms", "gateway_lockstep_p99_ms")
    }
    assert rows["gateway_p50_ms"].details["tokens"] == [3 * 10]
    assert 0 < rows["gateway_p50_ms"].value <= rows["gateway_p99_ms"].value


@pytest.mark.deep
def test_requests_of_apis_with_and_without_limits_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NUM_CLIENTS", 2)
    rows = {row.name: row for row in limits.measure(tmp_path, seconds=0.5, repeats=1)}
    assert set(rows) == {"limits_request_us", "limits_answer_us"}
    for row in rows.values():
        for api in ("off", "on"):
            assert row.details[f"{api}_requests_s"][0] > 0
            assert row.details[f"{api}_api_us"][0] > 0


def test_the_report_has_the_figures_and_their_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(folder: Path, seconds: float, repeats: int) -> list[Row]:
        assert folder.is_dir()
        return [Row("things_s", f"by {repeats} of {seconds:g} s", (3.0, 1.0, 2.0), (0.1, 0.2, 0.3))]

    monkeypatch.setattr(command, "PARTS", {"things": (part, 9)})
    assert command.main(["--json", "--repeats", "3", "--seconds", "4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["figures"] == {"things_s": 2.0}
    (row,) = report["rows"]
    assert row["method"] == "by 3 of 4 s"
    assert (row["low"], row["median"], row["high"]) == (1.0, 2.0, 3.0)
    assert row["other_cpu"] == [0.1, 0.2, 0.3]
