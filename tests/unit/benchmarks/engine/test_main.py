"""The command's output and exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks import peers
from benchmarks.engine.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path


def test_missing_peers_are_named_with_what_to_do(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "LLAMA_BENCH", peers.ROOT / "nowhere" / "llama-batched-bench")
    assert main(["--json", "--model", str(tiny_model), "--model-cache", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "nowhere/llama-batched-bench; run `make bench-peers`, or pass --without-peers" in printed.err
    assert not printed.out


def test_an_unknown_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--without-peers", "--model", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err


@pytest.mark.deep
def test_one_group_of_our_own_engine_prints_one_report(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--json", "--without-peers", "--only", "cold", "--repeats", "1", "--threads", "1"]
    assert main([*few, "--model", str(tiny_model)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ratios"]["lora32_vs_vllm"] is None
    assert isinstance(report["ratios"]["cold_minus_warm_ms"], float)
    assert [row["scenario"] for row in report["rows"]] == ["cold", "cold_from_disk"]
    assert report["versions"]["loraledger cold"].startswith("torch")


@pytest.mark.deep
@pytest.mark.parametrize("group", ["chat", "sizes", "ranks", "lookup"])
def test_each_group_of_our_engine_alone_runs_on_any_model(
    group: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--json", "--without-peers", "--only", group, "--repeats", "1", "--threads", "1"]
    assert main([*few, "--model", str(tiny_model)]) == 0
    report = json.loads(capsys.readouterr().out)
    expected = {"lookup": 12, "chat": 2, "sizes": 8, "ranks": 4}[group]
    assert len({row["scenario"] for row in report["rows"]}) == expected
    assert (report["ratios"]["lookup_copying"] is None) == (group != "lookup")
