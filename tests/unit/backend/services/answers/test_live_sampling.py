"""Which of the served answers a later block samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.chain import BlockRef
from backend.domain.errors import Unavailable
from backend.domain.live_agreement import LiveAgreement, is_sampled
from backend.domain.money import PPM
from backend.services.answers import live_agreement
from backend.services.answers.live_agreement import first_block_after
from tests.support.live_agreements import SamplingProcess, figures, mined, started
from tests.support.market import some_hash

if TYPE_CHECKING:
    from tests.support.scripted_installation import ScriptedInstallation


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
    off = SamplingProcess(installation, rate_ppm=0)
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
