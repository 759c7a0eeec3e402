"""The error of formats, on a tiny model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.engine.adapters import make_adapters
from benchmarks.engine.quality import WINDOW, load, measure, spread_windows

if TYPE_CHECKING:
    from pathlib import Path


def test_windows_are_spread_over_the_whole_text() -> None:
    windows = spread_windows(range(10 * WINDOW), 3)
    assert [window[0] for window in windows] == [0, 853, 1706]
    assert {len(window) for window in windows} == {WINDOW}


def test_errors_are_measured_against_both_references(tiny_model: Path) -> None:
    report = measure({name: load(tiny_model, name, 1) for name in ("fp32", "bf16", "int8")}, [range(40)])
    assert report["fp32"]["kl_fp32"] == pytest.approx(0, abs=1e-6)
    assert report["fp32"]["agreement_fp32"] == 1
    assert 0 < report["bf16"]["kl_fp32"] < 1e-4
    assert report["bf16"]["kl_bf16"] == pytest.approx(0, abs=1e-6)
    assert 0 < report["int8"]["kl_bf16"] < 1e-2
    # Of random weights every token is nearly as likely as any other.
    assert report["int8"]["perplexity"] == pytest.approx(49_152, rel=0.5)


def test_an_adapter_has_errors_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    (adapter,) = make_adapters(tmp_path, tiny_model, 1)
    found = {name: load(tiny_model, name, 1, adapter) for name in ("fp32", "int8")}
    report = measure(found | {"bf16": load(tiny_model, "fp32", 1)}, [range(40)])
    assert report["fp32"]["kl_bf16"] > report["int8"]["kl_fp32"] > 0
