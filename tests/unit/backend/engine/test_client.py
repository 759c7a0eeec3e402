"""The client and the server of the engine process, across a real socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from backend.domain.errors import InvalidInput, Overloaded, Unavailable
from backend.engine.client import EngineClient
from backend.ports.engine import EngineState, InvalidSchema
from inference import protocol
from inference.protocol import (
    AdapterRef,
    Chunk,
    CountTokens,
    EmbedItem,
    Generate,
    JsonSchema,
    Message,
    Options,
    Sampling,
)
from inference.server import frames
from telemetry import traces
from tests.support.tracing import recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

HELLO = (Message("user", "hello"),)
LONG = Sampling(max_tokens=400, temperature=0.0, ignore_eos=True)


@pytest.fixture
async def client(engine_socket: Path) -> AsyncIterator[EngineClient]:
    async with EngineClient(engine_socket) as client:
        yield client
        await until_idle(client)


async def until_idle(client: EngineClient) -> None:
    async with asyncio.timeout(30):
        while True:
            status = await client.status()
            if status.num_running + status.num_waiting == 0:
                assert status.kv_blocks_used == 0
                return
            await asyncio.sleep(0.01)


def short(num_tokens: int) -> Sampling:
    return Sampling(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)


async def test_an_answer_streams_and_ends_with_counts_and_probe(
    client: EngineClient, served_adapter: AdapterRef
) -> None:
    request = Generate("r", HELLO, adapter=served_adapter, sampling=short(6), probe=True)
    chunks = [chunk async for chunk in client.generate(request)]
    assert [chunk.completion_tokens for chunk in chunks] == [1, 2, 3, 4, 5, 6]
    assert [chunk.finish_reason for chunk in chunks] == [None] * 5 + ["length"]
    assert chunks[-1].prompt_tokens == (await client.count_tokens(CountTokens("", HELLO))).num_tokens == 8
    assert len(chunks[-1].probe.answer) == 64
    assert (await client.status()).active_adapters == [served_adapter.digest]


async def test_the_engine_says_what_it_counts(client: EngineClient, served_adapter: AdapterRef) -> None:
    stream = client.generate(Generate("r", HELLO, adapter=served_adapter, sampling=short(3)))
    assert len([chunk async for chunk in stream]) == 3
    found = {family.name: family for family in text_string_to_metric_families(await client.metrics(30))}
    assert found["vllm:generation_tokens"].samples[0].value >= 3
    assert found["loraledger_engine_adapter_loads"].samples[0].value >= 1
    assert found["vllm:num_requests_running"].samples[0].value == 0
    assert {label for family in found.values() for s in family.samples for label in s.labels} <= {
        *("model_name", "le", "finished_reason", "code")
    }


async def test_several_clients_and_requests_share_the_engine(
    client: EngineClient, engine_socket: Path, served_adapter: AdapterRef
) -> None:
    async def text(of: EngineClient, adapter: AdapterRef | None) -> list[int]:
        stream = of.generate(Generate("same", HELLO, adapter=adapter, sampling=short(8)))
        return [token async for chunk in stream for token in chunk.token_ids]

    async with EngineClient(engine_socket) as other:
        mine, theirs = await asyncio.gather(text(client, None), text(other, served_adapter))
        assert mine == await text(other, None)
        assert theirs != mine


async def test_hanging_up_in_the_middle_aborts_the_request(client: EngineClient) -> None:
    async with aclosing(client.generate(Generate("r", HELLO, sampling=LONG))) as stream:
        chunk = await anext(stream)
    assert chunk.completion_tokens == 1
    await until_idle(client)


async def test_losing_a_connection_aborts_its_requests(client: EngineClient, engine_socket: Path) -> None:
    other = EngineClient(engine_socket)
    stream = other.generate(Generate("r", HELLO, sampling=LONG))
    await anext(stream)
    await other.close()
    with pytest.raises(Unavailable):
        async for _ in stream:
            pass
    await until_idle(client)


async def test_an_aborted_answer_ends_with_what_was_generated(client: EngineClient) -> None:
    chunks: list[Chunk] = []
    async for chunk in client.generate(Generate("mine", HELLO, sampling=LONG, probe=True)):
        chunks.append(chunk)
        if len(chunks) == 3:
            await client.abort("mine")
    last = chunks[-1]
    assert last.finish_reason == "abort"
    assert last.completion_tokens == sum(len(chunk.token_ids) for chunk in chunks) < 400
    assert last.probe.num_answer_tokens == last.completion_tokens


async def test_embedding_given_text(client: EngineClient, served_adapter: AdapterRef) -> None:
    items = [EmbedItem(messages=HELLO, completion="hi"), EmbedItem(prompt="xyz")] * 40
    states = await client.embed(items[:3], served_adapter)
    assert [(each.num_prompt_tokens, each.num_answer_tokens) for each in states] == [(8, 3), (3, 0), (8, 3)]
    assert states[0].answer == pytest.approx(states[2].answer, abs=1e-4)
    assert states[1].answer is None


async def test_an_aborted_embedding_stops_its_work_without_a_word(engine_socket: Path) -> None:
    """The items need several steps, and what follows is read before the first is over."""
    reader, writer = await asyncio.open_unix_connection(engine_socket)
    items = tuple(EmbedItem(prompt="x" * 500) for _ in range(3))
    for command in (protocol.Embed("e", items), protocol.Abort("e"), protocol.GetStatus("s")):
        writer.write(frames.encode_frame(command))
    event = frames.decode_event(await frames.read_frame(reader))
    assert isinstance(event, protocol.Status)
    assert (event.num_running, event.num_waiting, event.kv_blocks_used) == (0, 0, 0)
    writer.close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"prompt": "x" * 600}, "context_length_exceeded"),
        ({"messages": HELLO, "prompt": "x"}, "invalid_request"),
        ({"prompt": "x", "adapter": AdapterRef("0" * 64, "/nowhere")}, "adapter_file_missing"),
        ({"prompt": "x", "adapter": AdapterRef("zero", "/nowhere")}, "invalid_request"),
        ({"prompt": "x", "sampling": Sampling(top_p=7.0)}, "invalid_request"),
        ({"prompt": "x", "sampling": Sampling(constraint=JsonSchema('{"not": {}}'))}, "invalid_schema"),
    ],
)
async def test_a_request_at_fault_is_invalid_input_with_the_engines_code(
    arguments: dict[str, object], code: str, client: EngineClient
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await anext(client.generate(Generate("r", **arguments)))
    assert refusal.value.details["code"] == code


async def test_more_than_the_engine_can_queue_is_retryable(client: EngineClient) -> None:
    streams = [client.generate(Generate(str(number), HELLO, sampling=LONG)) for number in range(8)]
    outcomes = await asyncio.gather(*(anext(stream) for stream in streams), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert {outcome.details["code"] for outcome in refused} == {"overloaded"}
    assert len(refused) < len(streams)
    for stream in streams:
        await stream.aclose()


async def test_a_malformed_command_is_answered_and_the_connection_lives(engine_socket: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(engine_socket)
    for body in (b'{"type": "generate", "request_id": "r", "temperatur": 1}', b"{", b'{"type": "x"}'):
        writer.write(len(body).to_bytes(4, "big") + body)
        event = frames.decode_event(await frames.read_frame(reader))
        assert isinstance(event, protocol.Error)
        assert event.code == "invalid_request"
    writer.write(frames.encode_frame(protocol.GetStatus("s")))
    assert isinstance(frames.decode_event(await frames.read_frame(reader)), protocol.Status)
    writer.close()


async def test_an_oversized_frame_ends_the_connection(engine_socket: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(engine_socket)
    writer.write((2**32 - 1).to_bytes(4, "big"))
    event = frames.decode_event(await frames.read_frame(reader))
    assert event.code == "frame_too_large"
    assert await frames.read_frame(reader) is None
    writer.close()


async def test_no_engine_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nothing answers"):
        await EngineClient(tmp_path / "none.sock").status()


@asynccontextmanager
async def served_by(
    path: Path, answer: Callable[[protocol.Command], dict[str, object] | None], **options: float
) -> AsyncIterator[EngineClient]:
    """A client of an engine that sends what `answer` returns, if anything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (body := await frames.read_frame(reader)) is not None:
            event = answer(frames.decode_command(body))
            if event is not None:
                text = json.dumps(event).encode()
                writer.write(len(text).to_bytes(4, "big") + text)
        writer.close()

    async with await asyncio.start_unix_server(serve, path), EngineClient(path, **options) as client:
        yield client


async def test_a_request_carries_its_span(tmp_path: Path) -> None:
    asked: list[protocol.Command] = []

    def answer(command: protocol.Command) -> dict[str, object]:
        asked.append(command)
        counts = {"prompt_tokens": 1, "completion_tokens": 0}
        rest = {"request_id": command.request_id, "text": "", "token_ids": [], "finish_reason": "stop"}
        return {"type": "chunk", **rest, **counts}

    request = Generate("one", prompt="hello", sampling=Sampling(max_tokens=1))
    async with served_by(tmp_path / "e.sock", answer) as client:
        with recorded(), traces.span("outer"):
            within = traces.current_traceparent()
            assert [chunk async for chunk in client.generate(request)]
        assert [chunk async for chunk in client.generate(replace(request, request_id="two"))]
    assert within is not None
    assert [getattr(each, "traceparent", "") for each in asked if hasattr(each, "sampling")] == [within, None]


async def test_an_event_that_cannot_be_decoded_costs_its_own_request_only(tmp_path: Path) -> None:
    def answer(command: protocol.Command) -> dict[str, object]:
        num_tokens = None if command.prompt == "bad" else 7
        return {
            "type": "token_count",
            "request_id": command.request_id,
            "num_tokens": num_tokens,
            "max_context": 9,
        }

    async with served_by(tmp_path / "e.sock", answer) as client:
        bad, good = await asyncio.gather(
            client.count_tokens(CountTokens("", prompt="bad")),
            client.count_tokens(CountTokens("", prompt="good")),
            return_exceptions=True,
        )
        assert isinstance(bad, Unavailable)
        assert good.num_tokens == 7
        assert (await client.count_tokens(CountTokens("", prompt="again"))).num_tokens == 7


async def test_questions_that_stay_unanswered_are_unavailable(tmp_path: Path) -> None:
    async with served_by(tmp_path / "e.sock", lambda _: None, deadline_seconds=0.05) as client:
        for question in (client.status(), client.count_tokens(CountTokens("", prompt="x"))):
            with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
                await question


async def test_what_the_engine_does_not_read_is_not_kept_without_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.engine.client._MAX_UNSENT_BYTES", 1000)
    reads = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reads.wait()
        writer.close()

    path = tmp_path / "e.sock"
    async with await asyncio.start_unix_server(serve, path), EngineClient(path) as client:
        first = asyncio.create_task(client.count_tokens(CountTokens("", prompt="x" * 2_000_000)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await client.count_tokens(CountTokens("", prompt="y"))
        reads.set()
        with pytest.raises(Unavailable, match="ended during this request"):
            await first


async def test_a_prefix_is_cached_for_its_payer_and_probes_have_the_models_size(
    client: EngineClient, served_adapter: AdapterRef
) -> None:
    chat = (Message("user", "hello" * 9),)
    sampling = Sampling(max_tokens=3, temperature=0.0)
    request = Generate("c", chat, adapter=served_adapter, sampling=sampling, probe=True, payer="payer")
    cached: list[int] = []
    for _ in range(2):
        chunks = [chunk async for chunk in client.generate(request)]
        cached.append(chunks[-1].cached_prompt_tokens)
    assert cached == [0, 32]
    assert chunks[-1].finish_reason is not None
    assert (len(chunks[-1].probe.answer), chunks[-1].probe.error) == (64, None)
    (*_, last) = [chunk async for chunk in client.generate(replace(request, probe_error=True))]
    assert (len(last.probe.answer), len(last.probe.error)) == (64, 64)
    assert (await client.count_tokens(CountTokens("", chat))).max_context == 512
    assert await client.state() == EngineState(frozenset({f"0x{served_adapter.digest}"}), 512, "fp32")


async def test_penalties_and_biases_reach_the_sampler(client: EngineClient) -> None:
    """One token is so likely that only its penalty can end it."""
    sampling = Sampling(
        max_tokens=4,
        temperature=0.0,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=2.0,
        frequency_penalty=0.5,
        logit_bias={70: 100.0, 71: 99.0},
    )
    chunks = [
        chunk async for chunk in client.generate(Generate("c", (Message("user", "x"),), sampling=sampling))
    ]
    text = "".join(chunk.text for chunk in chunks)
    assert text[0] != text[1]
    assert set(text[:2]) == set(text)


async def test_a_schema_and_logprobs_go_together(client: EngineClient) -> None:
    schema = JsonSchema('{"enum": ["left", "right"]}')
    sampling = Sampling(max_tokens=12, temperature=0.0, logprobs=2, constraint=schema)
    request = Generate("c", (Message("user", "x"),), sampling=sampling, priority=-1)
    chunks = [chunk async for chunk in client.generate(request)]
    assert "".join(chunk.text for chunk in chunks) in {'"left"', '"right"'}
    places = [place for chunk in chunks for place in chunk.logprobs or ()]
    assert len(places) == chunks[-1].completion_tokens
    assert all(len(place.top) == 2 for place in places)
    assert b"".join(place.chosen.token for place in places).startswith((b'"left"', b'"right"'))


async def test_raw_text_is_continued_without_a_chat_template(client: EngineClient) -> None:
    size = await client.count_tokens(CountTokens("", prompt="Once upon"))
    chat = await client.count_tokens(CountTokens("", (Message("user", "Once upon"),)))
    assert size.num_tokens < chat.num_tokens
    request = Generate("c", prompt="Once upon", sampling=Sampling(max_tokens=2))
    chunks = [chunk async for chunk in client.generate(request)]
    assert chunks[-1].prompt_tokens == size.num_tokens


async def test_any_json_object_is_a_schema_that_the_engine_takes(client: EngineClient) -> None:
    schema = JsonSchema('{"type": "object"}')
    sampling = Sampling(max_tokens=8, temperature=0.0, constraint=schema)
    request = Generate("c", (Message("user", "x"),), sampling=sampling)
    chunks = [chunk async for chunk in client.generate(request)]
    assert chunks[0].text.startswith("{")


async def test_a_refused_schema_names_the_api_parameter(client: EngineClient) -> None:
    sampling = Sampling(max_tokens=8, constraint=JsonSchema('{"not": {}}'))
    with pytest.raises(InvalidSchema) as caught:
        _ = [chunk async for chunk in client.generate(Generate("c", HELLO, sampling=sampling))]
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_schema")


async def test_constrained_answers_and_logprobs_cross_the_socket(client: EngineClient) -> None:
    sampling = Sampling(constraint=Options(("left", "right")), logprobs=2)
    chunks = [chunk async for chunk in client.generate(Generate("r", prompt="x", sampling=sampling))]
    assert "".join(chunk.text for chunk in chunks) in {"left", "right"}
    spelled = b"".join(each.chosen.token for chunk in chunks[:-1] for each in chunk.logprobs)
    assert spelled.decode() in {"left", "right"}
    assert all(len(chunk.logprobs[0].top) == 2 for chunk in chunks)


def test_the_client_does_not_import_torch() -> None:
    code = (
        "import sys, backend.engine.client, backend.engine.process;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
