from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from backend.cli import vote
from backend.cli.actor import _showing_answers
from backend.domain.errors import InvalidInput


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


def test_what_is_no_id_of_a_proposal_is_named() -> None:
    actor: Any = SimpleNamespace(connect=lambda: nullcontext(SimpleNamespace()))
    for proposal in ("foo", "-1", "", "1" * 79, "٣"):
        with pytest.raises(InvalidInput, match="is not the id of a proposal: `loraledger vote list` shows"):
            _showing_answers(vote.cast.__wrapped__)(proposal, "for", actor=actor)  # type: ignore[attr-defined]


def test_values_of_a_proposal_are_numbers_up_to_256_bits() -> None:
    assert vote._parse_change("feePpm=50000") == ("feePpm", 50_000)
    for value in ("0x12", "9" * 5000):
        assert vote._parse_change(f"treasury={value}") == ("treasury", value)
