"""Served answers that later blocks sample, and their agreement with the gradient."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.db.base import Base
from backend.domain.chain import BlockRef
from backend.domain.errors import Unavailable
from backend.domain.live_agreement import LiveAgreement, agreement_ppm, is_sampled
from backend.domain.money import PPM
from backend.services.answers import live_agreement
from backend.services.answers.live_agreement import COMMITTED_SECONDS, HELD_SECONDS, first_block_after
from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer
from inference.protocol import Generate, Message, Sampling
from tests.support.fakes import FakeGradients
from tests.support.market import some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database

PROBED = {0: 3.0, 1: 2.0, 3: 1.0}
"""Scores of the default method; the fake gradients rank the same contributions alike."""


class Process:
    """An API process with a sample: answers, and what it measures of them."""

    def __init__(self, installation: ScriptedInstallation, rate_ppm: int = PPM) -> None:
        self.installation, self.gradients = installation, FakeGradients()
        self.sampling = installation.sampling(rate_ppm, self.gradients)
        self.generate = installation.generating(60, live_agreements=self.sampling)

    async def answer(self, model: str = "") -> str:
        """Serves one answer; returns its response hash."""
        built = self.installation
        request = AnswerRequest(
            payer=Payer(built.payer.account),
            model=built.catalogue.resolve(model or built.version),
            message=Generate("", (Message("user", "say hello"),), sampling=Sampling(max_tokens=16)),
            body=b"{}",
        )
        answer = await self.generate.start(request)
        async for _ in answer.chunks():
            pass
        return str(answer.final.charged.interval.response_hash)

    async def run(self) -> LiveAgreement:
        await self.sampling.run_once()
        return figures(self.installation)


class OneMethod:
    """Scores by `PROBED`, or as the test says."""

    method = "distilled-1"

    def __init__(self) -> None:
        self.scored = PROBED

    def is_prepared(self, _: Path) -> bool:
        return True

    def prepare(self, adapter_folder: Path) -> None:
        """Needs nothing."""

    def scores(self, *_: object) -> dict[int, float]:
        return self.scored


@pytest.fixture
def method() -> OneMethod:
    return OneMethod()


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database, method: OneMethod) -> ScriptedInstallation:
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.attributors = (method,)
    built.fund(100_000)
    return built


async def started(installation: ScriptedInstallation, rate_ppm: int = PPM) -> Process:
    process = Process(installation, rate_ppm)
    await process.run()
    return process


def figures(installation: ScriptedInstallation) -> LiveAgreement:
    with installation.read() as tx:
        found = tx.live_agreements.of([installation.version])
        assert tx.live_agreements.total() == found.get(installation.version, LiveAgreement())
        return tx.live_agreements.total()


def mined(installation: ScriptedInstallation, name: str = "") -> BlockRef:
    """A block after all answers so far, which may sample now."""
    installation.clock.pass_seconds(1)
    block = installation.view.mine(name)
    installation.clock.pass_seconds(COMMITTED_SECONDS)
    return block


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


@pytest.mark.parametrize("rate", [PPM // 2, PPM // 5])
async def test_the_block_alone_chooses(installation: ScriptedInstallation, rate: int) -> None:
    process = await started(installation, rate)
    answers = [await process.answer() for _ in range(12)]
    block = mined(installation, "chosen by no operator")
    chosen = [answer for answer in answers if is_sampled(block.hash, answer, rate)]  # type: ignore[arg-type]
    found = await process.run()
    assert (found.num_sampled, found.num_measured) == (len(chosen), len(chosen))
    assert [request.request_id for request in process.gradients.requests] == [f"live {a}" for a in chosen]


async def test_an_answer_belongs_to_the_first_block_after_it(
    installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[str] = []
    monkeypatch.setattr(live_agreement, "is_sampled", lambda block, *_: bool(blocks.append(block)))
    process = await started(installation)
    await process.answer()
    first = installation.view.mine()  # in the same second as the answer: not after it
    installation.clock.pass_seconds(1)
    second = installation.view.mine()
    await process.answer()
    third = mined(installation)
    await process.run()
    assert first.hash not in blocks
    assert blocks == [second.hash, third.hash]


@pytest.mark.parametrize("method_scores", [{0: 1.0}, PROBED])
async def test_an_answer_that_the_gradient_does_not_rank_counts_neither_way(
    installation: ScriptedInstallation, method: OneMethod, method_scores: dict[int, float]
) -> None:
    process = await started(installation)
    method.scored, process.gradients.scored = method_scores, dict.fromkeys(PROBED, 1.0)
    await process.answer()
    mined(installation)
    assert await process.run() == LiveAgreement(1, 0, 1, 0)


async def test_what_ranks_nothing_where_the_gradient_does_agrees_by_chance(
    installation: ScriptedInstallation, method: OneMethod
) -> None:
    method.scored = dict.fromkeys(PROBED, 1.0)
    process = await started(installation)
    await process.answer()
    mined(installation)
    assert await process.run() == LiveAgreement(1, 1, 0, 0)


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
    installation.clock.pass_seconds(HELD_SECONDS + 1)  # no block was mined meanwhile
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
    again = Process(installation)
    assert await again.run() == LiveAgreement(1)
    assert (await process.run()).num_measured == 1  # had it not died


async def test_two_processes_sample_and_measure_each_answer_once(installation: ScriptedInstallation) -> None:
    processes = [await started(installation) for _ in range(2)]
    for process in processes:
        await process.answer()
    mined(installation)
    since, block = served_until(installation), installation.view.cursor()
    processes[0].sampling._sample_by(block, since)
    processes[1].sampling._sample_by(block, since)  # saw the same state, and comes late
    assert figures(installation) == LiveAgreement(2)
    for process in processes * 2:
        await process.run()
    assert figures(installation).num_measured == 2


def served_until(installation: ScriptedInstallation) -> int:
    with installation.read() as tx:
        found = tx.live_agreements.served_until()
    assert found is not None
    return found


async def test_a_block_that_the_node_dropped_samples_nothing(installation: ScriptedInstallation) -> None:
    """The indexer still has the old block, and rewinds later."""
    process = await started(installation)
    await process.answer()
    mined(installation)
    view = installation.view
    fork = replace(view.cursor(), hash=some_hash("fork"))
    process.sampling._block = lambda number: fork if number == fork.number else view.block(number)
    assert await process.run() == LiveAgreement()
    process.sampling._block = view.block
    assert (await process.run()).num_measured == 1


async def test_after_a_deep_reorganisation_no_answer_is_sampled_again(
    installation: ScriptedInstallation,
) -> None:
    process = await started(installation)
    await process.answer()
    block = mined(installation)
    found = await process.run()
    installation.view.blocks[block.number] = replace(block, hash=some_hash("fork"))
    assert await process.run() == found
    await process.answer()
    mined(installation)
    assert (await process.run()).num_sampled == 2


async def test_what_is_served_while_sampling_is_off_is_not_missing(
    installation: ScriptedInstallation,
) -> None:
    await (await started(installation)).answer()
    off = Process(installation, rate_ppm=0)
    async with off.sampling.running():
        await off.sampling._run()
    await off.answer()
    assert off.sampling._held == {}
    installation.clock.pass_seconds(1)
    on = await started(installation)
    mined(installation)
    assert await on.run() == LiveAgreement()


async def test_answers_without_contributors_are_no_samples(installation: ScriptedInstallation) -> None:
    process = await started(installation)
    await process.answer("tiny")
    mined(installation)
    assert await process.run() == LiveAgreement()


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
    built.attributors = (OneMethod(),)
    built.fund(10**9)
    asyncio.run(_run(built, steps))


async def _run(installation: ScriptedInstallation, steps: list[str]) -> None:
    processes = [await started(installation, PPM // 2) for _ in range(2)]
    served: dict[str, tuple[int, Process]] = {}
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
            processes[number % 2] = Process(installation, PPM // 2)
        for each in processes if step == "run" else ():
            await each.run()
    found, chosen = figures(installation), chosen_by_blocks(installation, served)
    assert found.num_sampled == len(chosen)
    alive = [answer for answer in chosen if served[answer][1] in processes]
    assert len(alive) <= found.num_measured <= found.num_sampled
    assert all(not process.sampling._held for process in processes)


def chosen_by_blocks(installation: ScriptedInstallation, served: dict[str, tuple[int, Process]]) -> list[str]:
    blocks = [installation.view.blocks[number] for number in sorted(installation.view.blocks)]
    after = {a: next(b for b in blocks if b.timestamp > at) for a, (at, _) in served.items()}
    return [a for a, block in after.items() if is_sampled(block.hash, a, PPM // 2)]  # type: ignore[arg-type]


@given(
    gaps=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    instant=st.integers(-1, 60),
    near=st.integers(-1, 45),
)
def test_the_first_block_after_an_instant_is_found(gaps: list[int], instant: int, near: int) -> None:
    times = [sum(gaps[:number]) for number in range(1, len(gaps) + 1)]
    names = [some_hash(f"block {number}") for number in range(len(times))]
    blocks = [BlockRef(number, names[number], names[0], at) for number, at in enumerate(times)]
    asked: list[int] = []

    def block(number: int) -> BlockRef:
        asked.append(number)
        return blocks[number]

    found = first_block_after(block, blocks[-1], instant, near)
    assert found == next((each for each in blocks if each.timestamp > instant), None)
    assert len(asked) <= 2 * len(blocks).bit_length() + 1
    asked.clear()
    if found is not None and found.number:
        first_block_after(block, blocks[-1], instant, found.number - 1)
        assert len(asked) <= 2


async def test_a_node_that_lags_delays_the_sample(installation: ScriptedInstallation) -> None:
    process = await started(installation)
    await process.answer()
    mined(installation)
    mined(installation)
    head, block = installation.view.cursor(), installation.view.block
    process.sampling._block = lambda number: block(number) if number == head.number else None
    with pytest.raises(Unavailable):
        await process.run()
    process.sampling._block = block
    assert (await process.run()).num_measured == 1


def test_a_rate_is_the_share_of_answers_that_is_sampled() -> None:
    block, answers = some_hash("block"), [some_hash(f"answer {number}") for number in range(2000)]
    counts = [sum(is_sampled(block, answer, rate) for answer in answers) for rate in (0, 100_000, PPM)]
    assert counts[0] == 0
    assert 150 < counts[1] < 250
    assert counts[2] == 2000


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
