"""Sampled answers that are missing, because they were lost before they were measured."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.db.base import Base
from backend.domain.errors import Unavailable
from backend.domain.live_agreement import LiveAgreement, is_sampled
from backend.domain.money import PPM
from backend.services.answers import live_agreement
from backend.services.answers.live_agreement import COMMITTED_SECONDS, HELD_SECONDS
from tests.support.live_agreements import SamplingProcess, figures, mined, started
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.chain import BlockRef


@pytest.mark.parametrize("fault", ["process", "nan", "none", "room", "numbers"])
async def test_a_sample_that_is_lost_is_missing(
    installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    process = await started(installation)
    if fault == "process":
        process.gradients.error = Unavailable("no memory")
    elif fault in {"nan", "none"}:
        process.gradients.scored = {0: math.nan, 1: 1.0} if fault == "nan" else {}
    else:
        limit = {"room": "MAX_HELD", "numbers": "MAX_HELD_NUMBERS"}[fault]
        monkeypatch.setattr(live_agreement, limit, 0)
    await process.answer()
    mined(installation)
    found = await process.run()
    assert (found, found.num_missing, found.mean) == (LiveAgreement(1), 1, None)
    assert await process.run() == found


async def test_a_prompt_is_not_held_for_longer_than_an_hour(installation: ScriptedInstallation) -> None:
    process = await started(installation)
    await process.answer()
    installation.clock.pass_seconds(HELD_SECONDS + 1)  # no block was mined in that time
    await process.run()
    assert process.sampling._held == {}
    mined(installation)
    assert (await process.run()).num_missing == 1
    assert process.gradients.requests == []


async def test_prompts_are_dropped_while_the_node_does_not_answer(
    installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await started(installation)
    await process.answer()

    def down(_: int) -> BlockRef:
        raise Unavailable("the node does not answer")

    monkeypatch.setattr(process.sampling, "_block", down)
    installation.clock.pass_seconds(HELD_SECONDS)
    with pytest.raises(Unavailable, match="the node"):
        await process.run()
    assert process.sampling._held == {}


async def test_prompts_are_dropped_while_others_are_measured(
    installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await started(installation)
    for _ in range(3):
        await process.answer()
    mined(installation)
    held: list[int] = []

    async def slowly(_: object) -> None:
        held.append(len(process.sampling._held))
        await process.answer()
        installation.clock.pass_seconds(HELD_SECONDS)
        raise TimeoutError

    monkeypatch.setattr(process.gradients, "scores", slowly)
    assert (await process.run()).num_missing == 3
    assert (held, process.sampling._held) == ([3], {})


async def test_a_killed_process_leaves_its_samples_missing(installation: ScriptedInstallation) -> None:
    """What it held is lost; another process, or itself after a restart, samples in its place."""
    killed = await started(installation)
    await killed.answer()
    other = await started(installation)
    await other.answer()
    mined(installation)
    found = await other.run()
    assert (found.num_sampled, found.num_measured, found.num_missing) == (2, 1, 1)


async def test_a_process_that_dies_between_sampling_and_measuring_is_counted(
    installation: ScriptedInstallation,
) -> None:
    process = await started(installation)
    await process.answer()
    mined(installation)
    process.sampling._sample()
    assert figures(installation) == LiveAgreement(1)
    again = SamplingProcess(installation)
    assert await again.run() == LiveAgreement(1)
    assert (await process.run()).num_measured == 1  # had it not died


STEPS = st.lists(st.sampled_from(["answer", "mine", "wait", "sample", "run", "restart"]), max_size=20)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_dies_every_sampled_answer_is_measured_or_missing(
    sqlite_database: Database, tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    with sqlite_database.begin() as tx:
        for table in reversed(Base.metadata.sorted_tables):
            tx.session.execute(table.delete())
    built = ScriptedInstallation(tmp_path_factory.mktemp("run"), sqlite_database)
    built.fund(10**9)
    asyncio.run(_run(built, steps))


async def _run(installation: ScriptedInstallation, steps: list[str]) -> None:
    processes = [await started(installation, PPM // 2) for _ in range(2)]
    served: dict[str, tuple[int, SamplingProcess]] = {}
    for number, step in enumerate((*steps, "mine", "wait", "run")):
        process = processes[number % 2]
        if step == "answer":
            installation.view.mine()
            served[await process.answer()] = int(installation.clock().timestamp()), process
        elif step == "mine":
            installation.clock.pass_seconds(1)
            installation.view.mine(f"block {number}")
        elif step == "wait":
            installation.clock.pass_seconds(COMMITTED_SECONDS)
        elif step == "sample":
            process.sampling._sample()
        elif step == "restart":
            processes[number % 2] = SamplingProcess(installation, PPM // 2)
        for each in processes if step == "run" else ():
            await each.run()
    found, chosen = figures(installation), chosen_by_blocks(installation, served)
    assert found.num_sampled == len(chosen)
    alive = [answer for answer in chosen if served[answer][1] in processes]
    assert len(alive) <= found.num_measured <= found.num_sampled
    assert all(not process.sampling._held for process in processes)


def chosen_by_blocks(
    installation: ScriptedInstallation, served: dict[str, tuple[int, SamplingProcess]]
) -> list[str]:
    blocks = [installation.view.blocks[number] for number in sorted(installation.view.blocks)]
    after = {a: next(b for b in blocks if b.timestamp > at) for a, (at, _) in served.items()}
    return [a for a, block in after.items() if is_sampled(block.hash, a, PPM // 2)]  # type: ignore[arg-type]
