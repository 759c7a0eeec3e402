"""The waiting of a short prompt for a long one, measured with a tiny model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.long_prompts import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_each_row_has_a_time_for_each_prompt(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", str(tiny_model), "--long", "60", "--short", "4", "--repeats", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)["first_token_ms"]
    assert {row: [*times] for row, times in rows.items()} == {
        "long_alone": ["long"],
        "short_alone": ["short"],
        "together": ["long", "short"],
    }
    assert all(ms > 0 for times in rows.values() for ms in times.values())
