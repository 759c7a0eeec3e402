from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING

from backend.cli import vote

if TYPE_CHECKING:
    import pytest


def test_open_proposals_are_listed_with_the_end_of_their_vote(capsys: pytest.CaptureFixture[str]) -> None:
    common = {"description": "Lower the fee", "vote_ends_at": 1_795_901_412}
    found = [{"id": "1", "state": "active", **common}, {"id": "2", "state": "defeated", **common}]
    client = SimpleNamespace(list_all=lambda _path: found)
    actor = SimpleNamespace(browse=lambda: nullcontext(client))
    vote.list_proposals.__wrapped__(actor=actor)  # type: ignore[attr-defined]
    assert capsys.readouterr().out.splitlines() == [
        "1  active     Lower the fee; votes count until 2026-11-28T21:30:12+00:00",
        "2  defeated   Lower the fee",
    ]
