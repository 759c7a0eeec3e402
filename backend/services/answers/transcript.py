"""Reads the engine's output for all choices of one answer to the end, even if the reader disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec.structs import replace

from backend.domain.errors import DomainError, Overloaded, Unavailable
from backend.ports.attribution import Probe
from backend.services.answers.attribution import answer_probe

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from backend.ports.engine import Engine
    from backend.services.answers.answer import Answer
    from inference.protocol import Chunk, FinishReason, Generate

ABORT_AGAIN_SECONDS = 0.5
_Choice: TypeAlias = "tuple[str, Chunk | None, tuple[int, ...], DomainError | None]"
"""Text, last chunk, if any, token ids, and why the engine did not go on."""


class AnswerInterrupted(Unavailable):
    """The engine stopped in the middle of an answer; nothing was charged."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of each choice, its last chunk, its token ids, and why it ended in the middle, if it did."""

    texts: tuple[str, ...]
    last: tuple[Chunk, ...]
    token_ids: tuple[tuple[int, ...], ...] = ()
    errors: tuple[DomainError | None, ...] = ()

    @property
    def error(self) -> DomainError | None:
        return next((error for error in self.errors if error is not None), None)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, which all choices share."""
        return max(chunk.prompt_tokens for chunk in self.last)

    @property
    def completion_tokens(self) -> int:
        return sum(chunk.completion_tokens for chunk in self.last)

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt tokens that no choice had to compute."""
        return min(chunk.cached_prompt_tokens for chunk in self.last)

    @property
    def finish_reasons(self) -> tuple[FinishReason, ...]:
        reasons = [chunk.finish_reason or "abort" for chunk in self.last]
        errors = self.errors or [None] * len(reasons)
        # A choice that an error ended is cut off, as one that is too long.
        return tuple("length" if error else reason for reason, error in zip(reasons, errors, strict=True))

    @property
    def probe(self) -> Probe:
        """Mean of the states and sum of the errors over the tokens of all choices. Choices that were aborted
        before they had a probe do not count.
        """
        pairs = [(answer_probe(chunk.probe), chunk.completion_tokens) for chunk in self.last]
        probes = [(probe, count) for probe, count in pairs if probe is not None]
        total = sum(count for _, count in probes)
        hidden = [(probe.hidden, count / total) for probe, count in probes if probe.hidden and total]
        error = [(probe.error, 1.0) for probe, count in probes if probe.error and count]
        return Probe(_weighted_sum(hidden), _weighted_sum(error))


def _weighted_sum(vectors: Sequence[tuple[Sequence[float], float]]) -> list[float] | None:
    if not vectors:
        return None
    weights = [weight for _, weight in vectors]
    columns = zip(*(vector for vector, _ in vectors), strict=True)
    return [sum(x * weight for x, weight in zip(column, weights, strict=True)) for column in columns]


async def transcribe(
    engine: Engine,
    requests: Sequence[Generate],
    answer: Answer,
    deadline: float,
    *,
    is_streamed: bool = False,
) -> Transcript:
    """Run all `requests` concurrently, one per choice. They are aborted at `deadline` (the loop's time) or
    when the reader disconnects; output up to then counts.

    If a choice fails, the others are cancelled and its error is raised. But a choice whose reader has the
    beginning already (`is_streamed`), and which its request or its adapter ends, counts up to there: a schema
    or an adapter that fails at the end would give free answers. So would a choice that the engine refuses
    for its load while others of the answer have begun: it counts as empty.
    """
    if answer.is_abandoned:
        raise AnswerInterrupted("The client disconnected before the answer began; nothing was charged.")
    choices = [
        _choice(engine, request, index, answer, deadline, is_streamed=is_streamed)
        for index, request in enumerate(requests)
    ]
    found = [await choices[0]] if len(choices) == 1 else await _all(choices)
    transcript = _joined(found)
    if not transcript.completion_tokens:
        raise AnswerInterrupted("The engine stopped before the answer began; nothing was charged.")
    return transcript


def _joined(found: Sequence[_Choice]) -> Transcript:
    """Errors: that of the first choice, if none has begun."""
    texts, chunks, token_ids, errors = zip(*found, strict=True)
    begun = next((chunk for chunk in chunks if chunk is not None), None)
    if begun is None:
        raise next(error for error in errors if error is not None)
    nothing = replace(begun, text="", token_ids=[], completion_tokens=0, probe=None, finish_reason="abort")
    return Transcript(texts, tuple(chunk or nothing for chunk in chunks), token_ids, errors)


async def _all(choices: Sequence[Coroutine[Any, Any, _Choice]]) -> list[_Choice]:
    """Run choices as tasks. A single choice has none: it would double the cost of a short answer."""
    tasks = [asyncio.create_task(choice) for choice in choices]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _choice(
    engine: Engine, request: Generate, index: int, answer: Answer, deadline: float, *, is_streamed: bool
) -> _Choice:
    texts: list[str] = []
    token_ids: list[int] = []
    last: Chunk | None = None
    try:
        with _abort_on_time(engine, request.request_id, answer, deadline):
            async for chunk in engine.generate(request):
                last = chunk
                texts.append(chunk.text)
                token_ids += chunk.token_ids
                answer.put(index, chunk)
    except asyncio.CancelledError:
        await _abort(engine, request.request_id)
        raise
    except DomainError as error:
        is_refused = isinstance(error, Overloaded) and last is None and answer.has_begun
        if not is_streamed or not (is_refused or _is_caused_by(request, error)):
            raise
        return "".join(texts), last, tuple(token_ids), error
    if last is None or last.finish_reason is None:
        raise AnswerInterrupted("The engine stopped in the middle of the answer; nothing was charged.")
    return "".join(texts), last, tuple(token_ids), None


def _is_caused_by(request: Generate, error: DomainError) -> bool:
    """Whether the cause is the request or its adapter: its creator may be who asks, and choose the token that
    drives the model out of the numeric range. The base model's range is the operator's choice.
    """
    code = error.details.get("code")
    has_adapter = request.adapter is not None or request.blend is not None
    return code == "grammar_too_complex" or (code == "numerical_error" and has_adapter)


@contextlib.contextmanager
def _abort_on_time(engine: Engine, request_id: str, answer: Answer, deadline: float) -> Iterator[None]:
    """Abort the request when the reader disconnects or the deadline passes, without a waiting task."""
    loop, aborting = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def abort() -> None:
        if not aborting:
            aborting.append(loop.create_task(_abort_repeatedly(engine, request_id)))

    timer = loop.call_at(deadline, abort)
    try:
        with answer.on_hang_up(abort):
            yield
    finally:
        timer.cancel()
        for task in aborting:
            task.cancel()


async def _abort_repeatedly(engine: Engine, request_id: str) -> None:
    while True:  # the engine ignores an abort that arrives before its request
        await _abort(engine, request_id)
        await asyncio.sleep(ABORT_AGAIN_SECONDS)


async def _abort(engine: Engine, request_id: str) -> None:
    with contextlib.suppress(DomainError):  # an engine that is gone has nothing to abort
        await engine.abort(request_id)
