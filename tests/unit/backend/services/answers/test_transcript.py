from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from backend.domain.errors import InvalidInput, Overloaded, Unavailable
from backend.ports.attribution import Probe
from backend.services.answers.answer import Answer
from backend.services.answers.transcript import AnswerInterrupted, Transcript, transcribe
from inference.protocol import AdapterRef, Chunk, Generate, Message, ProbeStates, Sampling
from tests.support.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


def messages(count: int) -> list[Generate]:
    chat = (Message("user", "say hello"),)
    return [Generate(f"chat-{index}", chat, sampling=Sampling(max_tokens=16)) for index in range(count)]


async def run(
    engine: ScriptedEngine,
    requests: Sequence[Generate],
    answer: Answer,
    seconds: float = 60,
    *,
    is_streamed: bool = False,
) -> Transcript:
    deadline = asyncio.get_running_loop().time() + seconds
    return await transcribe(engine, requests, answer, deadline, is_streamed=is_streamed)


async def test_every_choice_is_read_to_its_end() -> None:
    answer = Answer("a")
    found = await run(ScriptedEngine(), messages(2), answer)
    assert found.texts == ("Hello there, world.",) * 2
    assert (found.prompt_tokens, found.completion_tokens) == (2, 8)
    assert found.finish_reasons == ("stop", "stop")


async def test_a_choice_that_breaks_ends_the_others() -> None:
    engine = ScriptedEngine()
    engine.breaks_after = 2
    engine.waits_after_of = {"chat-1": 1}
    with pytest.raises(Unavailable):
        await run(engine, messages(2), Answer("a"))
    assert "chat-1" in engine.aborted


async def test_a_streamed_choice_that_its_request_ends_counts_up_to_there() -> None:
    engine = ScriptedEngine()
    engine.gives_up_after = 2
    found = await run(engine, messages(2), Answer("a"), is_streamed=True)
    assert found.texts == ("Hello there",) * 2
    assert (found.completion_tokens, found.finish_reasons) == (4, ("length", "length"))
    assert isinstance(found.error, InvalidInput)


async def test_a_choice_that_never_began_costs_nothing_and_frees_no_other() -> None:
    class Engine(ScriptedEngine):
        async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
            if request.request_id == "chat-1":
                raise InvalidInput("the constraint is too complex", details={"code": "grammar_too_complex"})
            async for chunk in super().generate(request):
                yield chunk

    found = await run(Engine(), messages(2), Answer("a"), is_streamed=True)
    assert found.texts == ("Hello there, world.", "")
    assert (found.prompt_tokens, found.completion_tokens) == (2, 4)
    assert found.finish_reasons == ("stop", "length")
    assert isinstance(found.error, InvalidInput)


class RefusingEngine(ScriptedEngine):
    """Refuses the second choice for its load: before the first one has begun, or after."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once
        self.has_begun = asyncio.Event()

    async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        if request.request_id == "chat-1":
            if not self.at_once:
                await self.has_begun.wait()
            raise Overloaded("the queue is full")
        if self.at_once:
            await asyncio.Event().wait()
        async for chunk in super().generate(request):
            yield chunk
            self.has_begun.set()


async def test_a_streamed_choice_that_is_refused_for_load_frees_no_other() -> None:
    """A payer could have its own waiting choices refused, by requests of another account of its own."""
    found = await run(RefusingEngine(at_once=False), messages(2), Answer("a"), is_streamed=True)
    assert found.texts == ("Hello there, world.", "")
    assert (found.completion_tokens, found.finish_reasons) == (4, ("stop", "length"))
    assert isinstance(found.error, Overloaded)


@pytest.mark.parametrize(("at_once", "is_streamed"), [(True, True), (False, False)])
async def test_an_answer_that_is_refused_before_its_reader_got_any_of_it_fails(
    *, at_once: bool, is_streamed: bool
) -> None:
    with pytest.raises(Overloaded):
        await run(RefusingEngine(at_once=at_once), messages(2), Answer("a"), is_streamed=is_streamed)


class FailingEngine(ScriptedEngine):
    """Fails after the first chunk."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code

    async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        async for chunk in super().generate(request):
            yield chunk
            raise InvalidInput("the answer failed", details={"code": self.code})


async def test_an_adapter_that_leaves_the_numeric_range_gives_no_free_answers() -> None:
    """The adapter's creator may be the payer, and choose the token at which it does."""
    asked = [replace(one, adapter=AdapterRef("a", "/a")) for one in messages(1)]
    found = await run(FailingEngine("numerical_error"), asked, Answer("a"), is_streamed=True)
    assert (found.completion_tokens, found.finish_reasons) == (1, ("length",))
    assert isinstance(found.error, InvalidInput)


async def test_a_base_model_that_leaves_the_numeric_range_is_not_charged() -> None:
    """Its arithmetic is the operator's choice."""
    with pytest.raises(InvalidInput):
        await run(FailingEngine("numerical_error"), messages(1), Answer("a"), is_streamed=True)


async def test_other_errors_in_a_stream_are_not_charged() -> None:
    with pytest.raises(InvalidInput):
        await run(FailingEngine("overloaded"), messages(1), Answer("a"), is_streamed=True)


@pytest.mark.parametrize(("gives_up_after", "is_streamed"), [(2, False), (0, True)])
async def test_what_nobody_got_does_not_count(gives_up_after: int, is_streamed: bool) -> None:
    engine = ScriptedEngine()
    engine.gives_up_after = gives_up_after
    with pytest.raises(InvalidInput):
        await run(engine, messages(2), Answer("a"), is_streamed=is_streamed)


async def test_disconnecting_before_one_choice_begins_charges_the_others() -> None:
    engine = ScriptedEngine()
    engine.waits_after_of = {"chat-0": 3, "chat-1": 0}
    answer = Answer("a")
    reading = asyncio.create_task(run(engine, messages(2), answer))
    async for _, chunk in answer.chunks():
        if chunk.completion_tokens == 3:
            break
    answer.hang_up()
    found = await reading
    assert found.texts == ("Hello there, world", "")
    assert (found.completion_tokens, found.finish_reasons) == (3, ("abort", "abort"))


@pytest.mark.parametrize("num_choices", [1, 2])
async def test_a_reader_that_leaves_after_the_end_aborts_nothing(num_choices: int) -> None:
    """Each aborted choice would have a task that asks the engine again until it ends, which it has."""
    engine, answer = ScriptedEngine(), Answer("a")
    await run(engine, messages(num_choices), answer)
    before = asyncio.all_tasks()
    answer.hang_up()
    assert asyncio.all_tasks() == before
    assert engine.aborted == set()


async def test_a_reader_that_leaves_aborts_only_the_choices_that_still_run() -> None:
    engine, answer = ScriptedEngine(), Answer("a")
    engine.waits_after_of = {"chat-1": 1}
    reading = asyncio.create_task(run(engine, messages(2), answer))
    ended = 0
    async for index, _ in answer.chunks():
        ended += index == 0
        if ended == len(engine.words):
            break
    await asyncio.sleep(0)
    answer.hang_up()
    await reading
    assert engine.aborted == {"chat-1"}
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nothing_at_all_is_an_interruption() -> None:
    engine = ScriptedEngine()
    engine.waits_after = 0
    with pytest.raises(AnswerInterrupted, match="before the answer began"):
        await run(engine, messages(2), Answer("a"), seconds=0.05)


async def test_who_has_left_before_is_not_answered() -> None:
    answer, engine = Answer("a"), ScriptedEngine()
    answer.hang_up()
    with pytest.raises(AnswerInterrupted, match="disconnected"):
        await run(engine, messages(1), answer)
    assert engine.requests == []


def last(completion_tokens: int, probe: ProbeStates | None, cached: int = 0) -> Chunk:
    return Chunk("r", "", [], 5, completion_tokens, "stop", probe, cached)


def test_states_are_averaged_and_errors_added_over_the_tokens_of_all_choices() -> None:
    probes = (
        ProbeStates([], [1.0, 0.0], 5, 1, error=[1.0, 5.0]),
        ProbeStates([], [0.0, 2.0], 5, 3, error=[2.0, -1.0]),
    )
    chunks = (last(1, probes[0], 4), last(3, probes[1], 2), last(7, None, 3))
    found = Transcript(("", "", ""), chunks)
    assert found.probe == Probe([0.25, 1.5], error=[3.0, 4.0])
    assert found.cached_prompt_tokens == 2
    assert Transcript(("",), (last(7, None),)).probe == Probe()
