"""One session without a socket, with clients that violate the protocol."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from inference import protocol
from inference.errors import InferenceError, InvalidSchemaError
from inference.outputs import Failure
from inference.protocol import (
    Abort,
    CountTokens,
    Embed,
    EmbedItem,
    Generate,
    GetStatus,
    ProbeStates,
    Regex,
    Sampling,
)
from inference.server import compilations, frames, session
from inference.server.engine_thread import SubmissionLimit
from inference.server.metrics import EngineMetrics

if TYPE_CHECKING:
    from collections.abc import Callable


class Panic(BaseException):
    """A Rust panic, which is not an `Exception`."""


class Writer:
    """A transport whose peer never reads."""

    def __init__(self) -> None:
        self.events: list[protocol.Event] = []
        self.num_unsent = 0
        self.num_drained = 0
        self.is_aborted = False
        self.transport = self

    def write(self, frame: bytes) -> None:
        self.num_unsent += len(frame)
        self.events.append(frames.decode_event(frame[4:]))

    async def drain(self) -> None:
        self.num_drained += 1

    def get_write_buffer_size(self) -> int:
        return self.num_unsent

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        pass


def a_status(request_id: str) -> protocol.Status:
    return protocol.Status(request_id, "m", "", 9, [], [], 0, 0, 0, 0, 0, 0)


async def run_session(
    *commands: protocol.Command,
    encode_prompt: Callable[..., list[int]] = lambda *_: [1, 2],
    submit: Callable[..., None] = lambda *_: None,
    aborted: list[str] | None = None,
    malformed: bytes = b"",
) -> tuple[session.Session, Writer]:
    """Let a session handle a frame that is `malformed`, if given, and `commands`, then hang up."""
    aborted = [] if aborted is None else aborted
    reader, writer = asyncio.StreamReader(), Writer()
    if malformed:
        reader.feed_data(len(malformed).to_bytes(4, "big") + malformed)
    for command in commands:
        reader.feed_data(frames.encode_frame(command))
    reader.feed_eof()
    tokenizer = SimpleNamespace(encode_item=lambda _: ([1], [2]))
    engine_thread: Any = SimpleNamespace(
        engine=SimpleNamespace(
            tokenizer=tokenizer,
            max_context=9,
            status=a_status,
            abort=aborted.append,
            encode_prompt=lambda command: encode_prompt(command.messages, command.prompt),
            constraint_of=lambda command: command.sampling.constraint,
        ),
        post=lambda job: job(engine_thread.engine),
        submit=submit,
        metrics=EngineMetrics("tiny"),
    )
    with ThreadPoolExecutor(1) as tokenizers:
        it = session.Session(0, engine_thread, tokenizers, tokenizers, reader, writer)  # type: ignore[arg-type]
        await it.run()
    return it, writer


@pytest.mark.parametrize("error", [RuntimeError("bug"), Panic("panic")])
async def test_an_unexpected_error_is_its_requests_own(error: BaseException) -> None:
    def encode(_: object, prompt: str) -> list[int]:
        if prompt == "bad":
            raise error
        return [1, 2]

    _, writer = await run_session(
        CountTokens("a", prompt="bad"), CountTokens("b", prompt="good"), encode_prompt=encode
    )
    first, second = writer.events
    assert isinstance(first, protocol.Error)
    assert (first.request_id, first.code, first.retryable) == ("a", "engine_error", True)
    assert isinstance(second, protocol.TokenCount)


async def test_the_next_command_is_read_when_the_last_answer_has_gone_out() -> None:
    _, writer = await run_session(*(GetStatus(str(i)) for i in range(5)))
    assert writer.num_drained == 5


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MAX_UNSENT_BYTES", 200)
    _, writer = await run_session(*(CountTokens(str(i), prompt="x") for i in range(50)))
    assert writer.is_aborted
    assert len(writer.events) < 10


async def test_an_answer_too_large_for_a_frame_is_an_error_of_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 300)
    reader, writer = asyncio.StreamReader(), Writer()
    engine_thread: Any = SimpleNamespace(post=lambda _: None)
    it = session.Session(0, engine_thread, None, None, reader, writer)  # type: ignore[arg-type]
    it._send(protocol.Embedding("e", [ProbeStates([0.125] * 100, None, 1, 0)]))
    (event,) = writer.events
    assert isinstance(event, protocol.Error)
    assert (event.request_id, event.code) == ("e", "frame_too_large")


def full_after(num_requests: int) -> Callable[..., None]:
    """A `submit` that lets in so many."""
    entrance = SubmissionLimit(num_requests, 100)
    return lambda _id, payer, num_tokens, _add: entrance.enter(payer, num_tokens)


async def test_a_request_beyond_the_inbox_limit_is_rejected_as_overloaded() -> None:
    aborted: list[str] = []
    _, writer = await run_session(
        Generate("a", prompt="x"),
        Generate("b", prompt="x"),
        GetStatus("s"),
        submit=full_after(1),
        aborted=aborted,
    )
    refusal, status = writer.events
    assert isinstance(refusal, protocol.Error)
    assert (refusal.request_id, refusal.code, refusal.retryable) == ("b", "overloaded", True)
    assert isinstance(status, protocol.Status)
    assert aborted == ["0:a"]  # when the client hung up


async def test_an_embedding_that_fits_in_part_is_taken_back() -> None:
    aborted: list[str] = []
    items = tuple(EmbedItem(prompt="x") for _ in range(3))
    _, writer = await run_session(
        Embed("e", items), CountTokens("c", prompt="x"), submit=full_after(2), aborted=aborted
    )
    assert [event.request_id for event in writer.events] == ["e", "c"]
    assert writer.events[0].code == "overloaded"
    assert aborted == ["0:e#0", "0:e#1"]


async def test_only_a_request_that_is_known_is_aborted_and_only_once() -> None:
    aborted: list[str] = []
    await run_session(
        Generate("a", prompt="x"), *(Abort(key) for key in ("a", "a", "unknown")), aborted=aborted
    )
    assert aborted == ["0:a"]


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [(Generate("a", prompt="x"), ""), (Generate("a", (protocol.Message("user", "x"),)), None)],
)
async def test_the_engine_learns_which_prompts_are_raw_and_not_their_text(
    asked: Generate, prompt: str | None
) -> None:
    added: list[Generate] = []
    engine = SimpleNamespace(add=lambda command, *_: added.append(command))
    await run_session(asked, submit=lambda _id, _payer, _num_tokens, add: add(engine))
    assert [(command.messages, command.prompt) for command in added] == [((), prompt)]


async def test_a_prompt_far_too_long_does_not_wait_to_be_refused() -> None:
    submitted: list[str] = []
    _, writer = await run_session(
        Generate("a", prompt="x"),
        encode_prompt=lambda *_: [1] * 11,
        submit=lambda request_id, *_: submitted.append(request_id),
    )
    assert [event.code for event in writer.events] == ["context_length_exceeded"]
    assert submitted == []


async def test_an_output_without_a_receiver_is_dropped() -> None:
    it, writer = await run_session(Embed("e", (EmbedItem(prompt="x"),)))
    it.deliver(Failure("0:e#0", InferenceError("late")))
    assert writer.events == []


class Recorder:
    """An engine that notes what is done to it; jobs run as they are posted."""

    def __init__(self, compile_: Callable[..., Any]) -> None:
        self.max_context = 9
        self.grammars = SimpleNamespace(compile=compile_, cached=lambda *_: None)
        self.done: list[str] = []
        self.engine = self
        self.metrics = EngineMetrics("tiny")

    def encode_prompt(self, _: object) -> list[int]:
        return [1, 2]

    def constraint_of(self, command: Generate) -> Any:
        return command.sampling.constraint

    def post(self, job: Callable[[Any], object]) -> None:
        job(self)

    def submit(self, _id: str, _payer: str, _num_tokens: int, add: Callable[[Any], object]) -> None:
        add(self)

    def add(self, *_: object) -> None:
        self.done.append("add")

    def abort(self, _: str) -> None:
        self.done.append("abort")


async def run_compiling(compile_: Callable[..., Any], *commands: protocol.Command) -> tuple[Recorder, Writer]:
    """A session whose client hangs up when no constraint is being compiled any more."""
    reader, writer, recorder = asyncio.StreamReader(), Writer(), Recorder(compile_)
    with ThreadPoolExecutor(1) as tokenizers, ThreadPoolExecutor(1) as compilers:
        it = session.Session(0, recorder, tokenizers, compilers, reader, writer)  # type: ignore[arg-type]
        running = asyncio.create_task(it.run())
        for command in commands:
            reader.feed_data(frames.encode_frame(command))
        while not it._compiling:  # noqa: ASYNC110 -- nothing tells when a command has been read
            await asyncio.sleep(0)
        while it._compiling:
            await asyncio.gather(*it._compiling.values())
        done = list(recorder.done)
        reader.feed_eof()
        await running
    recorder.done = done  # without the abort of what was running when the client left
    return recorder, writer


CONSTRAINED = Generate("g", prompt="x", sampling=Sampling(constraint=Regex("a")))


@pytest.fixture
def last_is_handled(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a session has handled an `Abort`, which these clients send last."""
    event, handle = threading.Event(), session.Session._handle

    async def handle_and_tell(it: session.Session, command: protocol.Command) -> None:
        await handle(it, command)
        if isinstance(command, Abort):
            event.set()

    monkeypatch.setattr(session.Session, "_handle", handle_and_tell)
    return event


async def test_other_commands_are_answered_while_a_constraint_is_compiled(
    last_is_handled: threading.Event,
) -> None:
    recorder, writer = await run_compiling(
        lambda *_: last_is_handled.wait(60), CONSTRAINED, CountTokens("c", prompt="x"), Abort("unknown")
    )
    assert last_is_handled.is_set()
    assert [type(event) for event in writer.events] == [protocol.TokenCount]
    assert recorder.done == ["add"]


async def test_a_refused_constraint_is_its_requests_own_error() -> None:
    def refuse(*_: object) -> None:
        raise InvalidSchemaError("#/items", "bad")

    recorder, writer = await run_compiling(refuse, CONSTRAINED)
    (event,) = writer.events
    assert isinstance(event, protocol.Error)
    assert (event.request_id, event.code, event.retryable) == ("g", "invalid_schema", False)
    assert "#/items" in event.message
    assert recorder.done == []


async def test_a_request_aborted_while_its_constraint_is_compiled_ends_as_soon_as_it_has_begun(
    last_is_handled: threading.Event,
) -> None:
    recorder, _ = await run_compiling(lambda *_: last_is_handled.wait(60), CONSTRAINED, Abort("g"))
    assert recorder.done == ["add", "abort"]


async def test_too_many_constraints_at_once_are_refused_as_retryable(
    last_is_handled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilations, "MAX_OF_PAYER", 1)
    more = Generate("h", prompt="x", sampling=Sampling(constraint=Regex("b")))
    _, writer = await run_compiling(lambda *_: last_is_handled.wait(60), CONSTRAINED, more, Abort("unknown"))
    (event,) = writer.events
    assert isinstance(event, protocol.Error)
    assert (event.request_id, event.code, event.retryable) == ("h", "overloaded", True)


async def test_requests_with_one_constraint_share_its_compilation(
    last_is_handled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilations, "MAX_OF_PAYER", 1)
    compiled = []

    def compile_(constraint: object, _payer: str) -> object:
        last_is_handled.wait(60)
        compiled.append(constraint)
        return constraint

    more = [Generate(f"h{number}", prompt="x", sampling=CONSTRAINED.sampling) for number in range(3)]
    recorder, writer = await run_compiling(compile_, CONSTRAINED, *more, Abort("unknown"))
    assert (writer.events, recorder.done) == ([], ["add"] * 4)
    assert compiled == [CONSTRAINED.sampling.constraint]


async def test_no_payers_requests_take_all_places_of_those_that_wait(
    last_is_handled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_MAX_COMPILING", 4)
    sampling = CONSTRAINED.sampling
    many = [Generate(f"m{number}", prompt="x", payer="many", sampling=sampling) for number in range(3)]
    other = Generate("o", prompt="x", payer="other", sampling=sampling)
    commands = (*many, other, Abort("unknown"))
    recorder, writer = await run_compiling(lambda *_: last_is_handled.wait(60), *commands)
    (event,) = writer.events
    assert isinstance(event, protocol.Error)
    assert (event.request_id, event.code) == ("m2", "overloaded")
    assert recorder.done == ["add"] * 3


async def test_payers_take_turns_with_their_constraints(last_is_handled: threading.Event) -> None:
    compiled = []

    def compile_(_: object, payer: str) -> None:
        last_is_handled.wait(60)
        compiled.append(payer)

    flood = [
        Generate(f"f{n}", prompt="x", payer="flood", sampling=Sampling(constraint=Regex(f"f{n}")))
        for n in range(4)
    ]
    other = Generate("o", prompt="x", payer="other", sampling=CONSTRAINED.sampling)
    recorder, writer = await run_compiling(compile_, *flood, other, Abort("unknown"))
    assert (writer.events, recorder.done) == ([], ["add"] * 5)
    assert compiled == ["flood", "other", "flood", "flood", "flood"]


@pytest.mark.parametrize(
    "malformed", [b"\xff", b"[]", b'{"type":"abort","request_id":"\xff"}', b'{"x":' + b"[" * 100_000]
)
async def test_a_malformed_frame_is_answered_and_the_connection_serves_on(malformed: bytes) -> None:
    _, writer = await run_session(protocol.GetStatus("s"), malformed=malformed)
    refused, status = writer.events
    assert isinstance(refused, protocol.Error)
    assert (refused.request_id, refused.code) == ("", "invalid_request")
    assert status == a_status("s")
