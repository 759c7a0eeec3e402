"""How well the attribution of sampled answers agrees with the gradient."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.domain.live_agreement import LiveAgreement, agreement_ppm
from backend.domain.money import PPM
from inference.protocol import Message
from tests.support.live_agreements import PROBED, mined, started

if TYPE_CHECKING:
    from tests.support.scripted_installation import ScriptedInstallation


async def test_a_sampled_answer_is_measured_once(installation: ScriptedInstallation) -> None:
    process = await started(installation)
    await process.answer()
    assert await process.run() == LiveAgreement()  # its block is not mined
    mined(installation)
    agreement = agreement_ppm(PROBED, process.gradients.scored)
    assert agreement == PPM
    assert await process.run() == LiveAgreement(1, 1, 0, agreement)
    assert await process.run() == LiveAgreement(1, 1, 0, agreement)
    (request,) = process.gradients.requests
    assert request.is_background
    assert (request.messages, request.choices) == ((Message("user", "say hello"),), ((1, 1, 1, 1),))


@pytest.mark.parametrize("method_scores", [{0: 1.0}, PROBED])
async def test_an_answer_that_the_gradient_does_not_rank_counts_neither_way(
    installation: ScriptedInstallation, method_scores: dict[int, float]
) -> None:
    process = await started(installation)
    process.method.scored, process.gradients.scored = method_scores, dict.fromkeys(PROBED, 1.0)
    await process.answer()
    mined(installation)
    assert await process.run() == LiveAgreement(1, 0, 1, 0)


async def test_what_ranks_nothing_where_the_gradient_does_agrees_by_chance(
    installation: ScriptedInstallation,
) -> None:
    process = await started(installation)
    process.method.scored = dict.fromkeys(PROBED, 1.0)
    await process.answer()
    mined(installation)
    assert await process.run() == LiveAgreement(1, 1, 0, 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_only_what_the_stage_has_not_scored_is_computed_again(
    installation: ScriptedInstallation, fails: bool
) -> None:
    process = await started(installation)
    stage = installation.use_gradient_stage(live_agreements=process.sampling)
    stage.error = Unavailable("busy") if fails else None
    process.generate = installation.generate
    await process.answer()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    mined(installation)
    assert await process.run() == LiveAgreement(1, 1, 0, PPM)
    assert (len(stage.requests), len(process.gradients.requests)) == (1, int(fails))
    assert process.sampling._num_numbers == 0
