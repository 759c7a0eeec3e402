from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.attribution import answer_draw, shares_from_scores
from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer
from inference.protocol import Generate, Message, Sampling
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database

BODIES = [b"{}", b"{ }", b"{   }"]
"""Each draws another of three contributions."""


@pytest.mark.parametrize("body", BODIES)
async def test_an_answer_draws_which_of_too_many_contributions_share_alike(
    tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr("backend.domain.attribution.MAX_SHARES", 2)
    installation = ScriptedInstallation(tmp_path, sqlite_database)
    installation.fund(10_000)
    request = AnswerRequest(
        payer=Payer(installation.payer.account),
        model=installation.catalogue.resolve(installation.version),
        message=Generate("", (Message("user", "say hello"),), sampling=Sampling(max_tokens=16)),
        body=body,
    )
    answer = await installation.generate.start(request)
    text = "".join([chunk.text async for _, chunk in answer.chunks()])
    (part,) = answer.final.receipt.signed.slices
    alike = dict.fromkeys((0, 1, 3), 1.0)
    assert part.shares == shares_from_scores(alike, answer_draw(body, [text]))
