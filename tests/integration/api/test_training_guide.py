"""Every snippet of docs/training.md, in the order of the page, against a server; and its tables."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from backend.chain.local_node import ROOT
from backend.domain.training import LINEAR_LAYERS, TrainingConfig
from backend.services.train.options import RANGES
from tests.support.market import some_hash

if TYPE_CHECKING:
    import pytest

    from tests.integration.api.conftest import Api

PAGE = ROOT / "docs" / "training.md"
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^\| `(\w+)` \| (\S+) \| (.*) \|$", re.MULTILINE)


def test_every_snippet_runs(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MARKET_URL", api.url)
    monkeypatch.setenv("MARKET_SESSION", api.session)
    monkeypatch.setenv("SNAPSHOT", some_hash("snapshot"))
    names: dict[str, Any] = {"__name__": "guide"}
    snippets = SNIPPET.findall(PAGE.read_text())
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)  # noqa: S102
    names["market"].close()
    names["client"].close()
    said = capsys.readouterr().out
    assert len(snippets) == 7
    for line in (
        "0 10 ",
        "given  'What'",
        "learnt 'is.'",
        "goes on from 0x",
        "validating_files",
        "info The job is validating.",
        "[]",
        "cancelled",
        "not_published",
    ):
        assert line in said


def test_the_table_has_every_option_with_its_default_and_range() -> None:
    default = TrainingConfig()
    shown = {name: (given.strip("`"), allowed) for name, given, allowed in OPTION.findall(PAGE.read_text())}
    assert set(shown) == {field.name for field in fields(TrainingConfig)}
    for name, (given, allowed) in shown.items():
        value = getattr(default, name)
        spelled = {str(value), str(value).lower(), "all-linear" if value == LINEAR_LAYERS else str(value)}
        assert given in spelled, name
        if name in RANGES:
            assert allowed.startswith("{} to {}".format(*RANGES[name])), name
