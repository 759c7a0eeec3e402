from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from backend.chain.local_node import ROOT
from benchmarks.pages.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path


SOME = ("--pages", "catalogue", "receipt")
SIZES = ("--adapters", "12", "--proposals", "2", "--repeats", "2")


@pytest.mark.parametrize("pages", [SOME, pytest.param((), marks=pytest.mark.deep)], ids=["some", "all"])
def test_pages_are_light_without_faults_and_have_their_picture_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pages: tuple[str, ...]
) -> None:
    screens = tmp_path / "screens"
    assert main(["--json", *SIZES, "--screens", str(screens), *pages]) == 0
    report = json.loads(capsys.readouterr().out)
    figures = report["figures"]
    assert 1 < figures["first_page_kb"] <= 150
    assert figures["server_ms_p50_1000_adapters"] > 0.1
    assert figures["layout_shift"] <= 0.05
    for name, page in report["pages"].items():
        faults = page["violations"], page["console"], page["overflow"]
        assert (name, *faults) == (name, {}, [], 0)
        assert len(list(screens.glob(f"{name}-*.png"))) == 4


@pytest.mark.deep
def test_the_pictures_of_the_documentation_are_drawn(tmp_path: Path) -> None:
    drawn = tmp_path / "pictures"
    assert main(["--json", *SIZES, "--pictures", str(drawn), "--pages", "catalogue"]) == 0
    shown = {path.name for path in (ROOT / "docs/images/pages").iterdir()}
    assert {path.name for path in drawn.iterdir()} == shown
