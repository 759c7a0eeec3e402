from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import InvalidInput, Unavailable
from backend.engine.replicas import ReplicaLimits, Replicas
from backend.engine.vllm import VllmEngine, answers
from backend.engine.vllm_answer import AnswerReader, Choice, Part, Usage, read_answer_parts
from backend.ports.engine import EngineUnreachable
from inference.protocol import Chunk, CountTokens, Generate, Message
from tests.support.vllm import RECORDED, FakeVllm, chunks_of, recorded_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from backend.engine.vllm_adapters import VllmAdapters


def test_tokens_usage_and_finish_reason_are_vllms(run: Callable[..., Any], vllm: FakeVllm) -> None:
    chunks = run(chunks_of)
    events = recorded_events("greedy")
    tokens = [token for event in events for choice in event["choices"] for token in choice["token_ids"]]
    assert [token for chunk in chunks for token in chunk.token_ids] == tokens
    assert [chunk.completion_tokens for chunk in chunks] == [1, 2, 3, 4]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "length"]
    assert {chunk.prompt_tokens for chunk in chunks} == {4}
    assert vllm.body_of("/v1/completions")["prompt"] == json.loads(RECORDED["tokenize"]["body"])["tokens"]


def test_texts_may_contain_what_else_ends_lines(
    run: Callable[..., Any], vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = RECORDED["greedy"]["body"].replace('"text":""', '"text":"a\u2028b\u2029c\u0085"', 1)
    monkeypatch.setitem(RECORDED, "separators", {"status": 200, "body": body})
    vllm.completion = "separators"
    chunks = run(chunks_of)
    assert chunks[0].text == "a\u2028b\u2029c\u0085"
    assert chunks[-1].finish_reason == "length"


@pytest.mark.parametrize(("name", "cached"), [("prefix", 0), ("cached", 128), ("other payer", 0)])
def test_cached_tokens_come_with_the_last_chunk(
    name: str, cached: int, run: Callable[..., Any], vllm: FakeVllm
) -> None:
    vllm.completion = name
    assert run(chunks_of)[-1].cached_prompt_tokens == cached


def test_counts_are_of_the_servers_tokenizer(run: Callable[..., Any]) -> None:
    found = run(lambda engine: engine.count_tokens(CountTokens("", (Message("user", "hello"),))))
    assert (found.num_tokens, found.max_context) == (8, 512)


def test_its_state_is_what_the_server_lists(run: Callable[..., Any]) -> None:
    state = run(lambda engine: engine.state())
    assert (len(state.active_adapters), state.max_context, state.weight_format) == (3, 512, None)
    assert {len(digest) for digest in state.active_adapters} == {66}


def test_an_abort_ends_the_answer_and_hangs_up(run: Callable[..., Any], vllm: FakeVllm) -> None:
    vllm.first_events = 2

    async def use(engine: VllmEngine) -> list[Chunk]:
        found: list[Chunk] = []
        request = Generate("r", prompt="x")
        async for chunk in engine.generate(request):
            found.append(chunk)
            if len(found) == 2:
                await engine.abort("r")
        await engine.abort("unknown")
        return found

    chunks = run(use)
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "abort"]
    assert chunks[-1].completion_tokens == 2
    assert vllm.hung_up.wait(10)


def part(number: int, finish_reason: str | None = None) -> Part:
    """Event of an answer whose tokens are 1, 2, ..."""
    return Part([Choice(f"{number} ", [number], None, finish_reason)], Usage(3, number))


def test_an_aborted_answer_counts_what_it_returned(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(engine: VllmEngine) -> list[Chunk]:
        aborted, read = asyncio.Event(), asyncio.Event()

        async def parts(*_: Any) -> AsyncIterator[Part]:
            yield part(1)
            await aborted.wait()
            yield part(2)
            read.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(engine, "_parts_of", parts)
        found: list[Chunk] = []
        async for chunk in engine.generate(Generate("r", prompt="x")):
            found.append(chunk)
            if len(found) == 1:
                await engine.abort("r")
                aborted.set()
                await read.wait()
        return found

    chunks = run(use)
    assert [(chunk.text, chunk.completion_tokens) for chunk in chunks] == [("1 ", 1), ("", 1)]


def test_an_abort_after_the_last_token_returns_it(served_model: Path) -> None:
    reader = AnswerReader(Generate("r", prompt="x"), read_answer_parts(served_model))
    assert not list(reader.push(part(1, "length")))
    last = reader.aborted()
    assert (last.text, last.token_ids, last.completion_tokens) == ("1 ", [1], 1)
    assert last.finish_reason == "length"


def test_a_reader_that_leaves_hangs_up(run: Callable[..., Any], vllm: FakeVllm) -> None:
    vllm.first_events = 1

    async def use(engine: VllmEngine) -> None:
        stream: AsyncIterator[Chunk] = engine.generate(Generate("r", prompt="x"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    run(use)
    assert vllm.hung_up.wait(10)


def test_a_server_that_ends_within_an_answer_is_unavailable(run: Callable[..., Any], vllm: FakeVllm) -> None:
    RECORDED["cut"] = {"status": 200, "body": RECORDED["greedy"]["body"].split("\n\n")[0] + "\n\n"}
    vllm.completion = "cut"
    with pytest.raises(Unavailable, match="ended during"):
        run(chunks_of)
    RECORDED["broken"] = {"status": 200, "body": 'data: {"error": {"message": "out of luck"}}\n\n'}
    vllm.completion = "broken"
    with pytest.raises(Unavailable, match="out of luck"):
        run(chunks_of)


def test_refusals_of_the_server_say_whether_to_retry(
    run: Callable[..., Any], vllm: FakeVllm, caplog: pytest.LogCaptureFixture
) -> None:
    vllm.completion = "too long"
    with pytest.raises(InvalidInput, match="maximum context length"):
        run(chunks_of)
    vllm.completion = "unknown model"
    with pytest.raises(Unavailable, match="does not find"):
        run(chunks_of)
    assert "VLLM_LORA_RESOLVER_CACHE_DIR" in caplog.text


def test_a_server_that_refuses_this_client_is_unavailable(
    run: Callable[..., Any], vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECORDED, "no access", {"status": 401, "body": '{"error": "Unauthorized"}'})
    vllm.completion = "no access"
    with pytest.raises(Unavailable, match="status 401"):
        run(chunks_of)


def test_a_server_that_is_down_is_unavailable(adapters: VllmAdapters, served_model: Path) -> None:
    async def use() -> None:
        await VllmEngine("http://127.0.0.1:1", adapters, read_answer_parts(served_model)).count_tokens(
            CountTokens("", prompt="x")
        )

    with pytest.raises(EngineUnreachable, match="does not answer"):
        asyncio.run(use())
    assert not answers("http://127.0.0.1:1", 1.0)


def test_a_single_server_that_hangs_is_given_up_and_serves_again_when_it_answers(
    run: Callable[..., Any], vllm: FakeVllm
) -> None:
    vllm.first_events = 0

    async def use(engine: VllmEngine) -> list[Chunk]:
        replicas = Replicas({vllm.url: engine}, limits=ReplicaLimits(stall_seconds=0.1, probe_seconds=0.1))
        try:
            with pytest.raises(Unavailable, match="does not respond") as caught:
                await chunks_of(replicas)
            assert caught.value.code == "engine_unavailable"
            assert vllm.url not in caught.value.message
            with pytest.raises(Unavailable, match="no engine is up"):
                await chunks_of(replicas)
            vllm.may_end.set()
            for _ in range(1500):
                if replicas._replicas[0].is_up:
                    break
                await asyncio.sleep(0.01)
            return await chunks_of(replicas)
        finally:
            await replicas.close()

    assert run(use)[-1].finish_reason == "length"


def test_progress_is_what_the_engine_process_has_computed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("prompt_tokens_total", "generation_tokens_total", "kv_cache_usage_perc", "num_requests_waiting")

    def progress(**values: float) -> Any:
        lines = [f'vllm:{name}{{engine="0"}} {values.get(name, 0.5)}\n' for name in names]
        monkeypatch.setitem(RECORDED, "metrics", {"status": 200, "body": "".join(lines)})
        return run(lambda engine: engine.progress())

    before = progress()
    assert progress() == before
    assert all(progress(**{name: 0.75}) != before for name in names[:3])
    assert progress(num_requests_waiting=7) == before  # its API process counts them


def test_metrics_are_those_of_vllm_alone(run: Callable[..., Any]) -> None:
    text = run(lambda engine: engine.metrics(5.0))
    assert "vllm:num_requests_running" in text
    assert "python_info" not in text
