from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import torch

from backend.domain.errors import InvalidInput, Unavailable
from backend.engine import vllm_adapters
from backend.engine.replicas import ReplicaLimits, Replicas
from backend.engine.vllm import VllmEngine, answers
from backend.engine.vllm_adapters import ServedBase, VllmAdapters
from backend.engine.vllm_answer import AnswerReader, Choice, Part, Usage, read_answer_parts
from backend.engine.vllm_request import UNSUPPORTED
from backend.ports.engine import EngineUnreachable, InvalidSchema, UnsupportedReasoning
from inference.model.base_model import base_model_digest
from inference.protocol import (
    AdapterBlend,
    AdapterRef,
    BlendPart,
    Chunk,
    CountTokens,
    Function,
    Generate,
    JsonSchema,
    Message,
    Options,
    Regex,
    Sampling,
    ToolCall,
    Tools,
)
from tests.support.vllm import RECORDED, FakeVllm, fake_vllm
from workers.vllm_adapters import Export, Exporter, Start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from backend.ports.engine import Engine


@pytest.fixture
def vllm() -> Iterator[FakeVllm]:
    with fake_vllm() as fake:
        yield fake


@pytest.fixture
def adapters(served_model: Path, tmp_path: Path) -> Iterator[VllmAdapters]:
    base = ServedBase(served_model, base_model_digest(served_model), "float32", 32)
    found = VllmAdapters(base, tmp_path / "cache")
    yield found
    found.close()


@pytest.fixture
def run(vllm: FakeVllm, adapters: VllmAdapters, served_model: Path) -> Callable[..., Any]:
    def run(use: Callable[[VllmEngine], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            engine = VllmEngine(vllm.url, adapters, read_answer_parts(served_model))
            try:
                async with asyncio.timeout(60):
                    return await use(engine)
            finally:
                await engine.close()

        return asyncio.run(main())

    return run


async def chunks_of(engine: Engine, **fields: Any) -> list[Chunk]:
    request = Generate(**{"request_id": "r", "messages": (Message("user", "hello"),), **fields})
    return [chunk async for chunk in engine.generate(request)]


def recorded_events(name: str) -> list[dict[str, Any]]:
    lines = RECORDED[name]["body"].split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def test_tokens_usage_and_finish_reason_are_vllms(run: Callable[..., Any], vllm: FakeVllm) -> None:
    chunks = run(chunks_of)
    events = recorded_events("greedy")
    tokens = [token for event in events for choice in event["choices"] for token in choice["token_ids"]]
    assert [token for chunk in chunks for token in chunk.token_ids] == tokens
    assert [chunk.completion_tokens for chunk in chunks] == [1, 2, 3, 4]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "length"]
    assert {chunk.prompt_tokens for chunk in chunks} == {4}
    assert vllm.body_of("/v1/completions")["prompt"] == json.loads(RECORDED["tokenize"]["body"])["tokens"]


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


def test_every_sampling_parameter_is_sent(run: Callable[..., Any], vllm: FakeVllm) -> None:
    sampling = Sampling(
        max_tokens=7,
        min_tokens=2,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias={5: -100.0},
        seed=-4,
        stop=("end",),
        ignore_eos=True,
        logprobs=2,
        constraint=Options(("yes", "no")),
    )
    vllm.completion = "logprobs"
    run(lambda engine: chunks_of(engine, sampling=sampling, payer="0xpayer", priority=-1))
    body = vllm.body_of("/v1/completions")
    expected = {
        "max_tokens": 7,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "seed": -4,
        "logit_bias": {"5": -100.0},
        "stop": ["end"],
        "ignore_eos": True,
        "logprobs": 2,
        "structured_outputs": {"choice": ["yes", "no"]},
        "cache_salt": "0xpayer",
        "priority": 1,
    }
    assert expected.items() <= body.items()


def test_constraints_are_checked_as_by_our_engine(run: Callable[..., Any], vllm: FakeVllm) -> None:
    schema = JsonSchema('{"type": "object", "not": {}}')
    with pytest.raises(InvalidSchema, match="not"):
        run(lambda engine: chunks_of(engine, sampling=Sampling(constraint=schema)))
    assert not any(path == "/v1/completions" for path, _ in vllm.requests)
    run(lambda engine: chunks_of(engine, sampling=Sampling(constraint=Regex("[a-z]+"))))
    assert vllm.body_of("/v1/completions")["structured_outputs"] == {"regex": "[a-z]+"}


def test_logprobs_have_bytes_and_the_likeliest_tokens_in_order(
    run: Callable[..., Any], vllm: FakeVllm
) -> None:
    vllm.completion = "logprobs"
    chunks = run(lambda engine: chunks_of(engine, sampling=Sampling(logprobs=3)))
    found = [each for chunk in chunks for each in chunk.logprobs]
    assert len(found) == 4
    for each in found:
        assert len(each.top) == 3
        assert [top.logprob for top in each.top] == sorted((top.logprob for top in each.top), reverse=True)
        assert isinstance(each.chosen.token, bytes)


def test_a_checkpoint_without_tokenizer_json_serves_no_logprobs(
    vllm: FakeVllm, adapters: VllmAdapters, served_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(served_model, tmp_path / "model", ignore=lambda *_: {"tokenizer.json"})

    async def main() -> list[Chunk]:
        engine = VllmEngine(vllm.url, adapters, read_answer_parts(folder))
        assert (await chunks_of(engine))[-1].finish_reason == "length"
        return await chunks_of(engine, sampling=Sampling(logprobs=1))

    with pytest.raises(InvalidInput, match=r"tokenizer\.json"):
        asyncio.run(main())


def test_the_error_vector_is_rebuilt_from_logprobs(
    run: Callable[..., Any], vllm: FakeVllm, served_model: Path
) -> None:
    from safetensors.torch import load_file

    vllm.completion = "logprobs"
    chunks = run(lambda engine: chunks_of(engine, probe=True, probe_error=True))
    assert vllm.body_of("/v1/completions")["logprobs"] == 8
    assert all(chunk.logprobs is None for chunk in chunks), "the client asked for none"
    states = chunks[-1].probe
    assert states is not None
    assert (states.prompt, states.answer) == (None, None)
    rows = load_file(served_model / "model.safetensors")["model.embed_tokens.weight"]
    expected = torch.zeros(rows.shape[1])
    for event in recorded_events("logprobs"):
        for choice in event["choices"]:
            pairs = sorted(choice["logprobs"]["top_logprobs"][0].items(), key=lambda pair: -pair[1])[:8]
            for key, logprob in pairs:
                expected += math.exp(logprob) * rows[int(key.removeprefix("token_id:"))]
            expected -= rows[choice["token_ids"][0]]
    assert states.error == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"deadline_ms": 5}, "deadline_ms"),
        ({"tools": Tools((Function("f", "{}"),))}, "tools"),
        ({"messages": (Message("assistant", "", (ToolCall("f", "{}"),)),)}, "messages"),
        ({"sampling": Sampling(stop=("a", "b", "c", "d", "e"))}, "stop"),
    ],
)
def test_what_vllm_does_not_keep_is_refused_by_name(
    fields: dict[str, Any], param: str, run: Callable[..., Any], vllm: FakeVllm
) -> None:
    with pytest.raises(InvalidInput, match="vLLM") as caught:
        run(lambda engine: chunks_of(engine, **fields))
    assert (caught.value.param, caught.value.details["code"]) == (param, UNSUPPORTED)
    assert not vllm.requests


def test_reasoning_efforts_are_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedReasoning):
        run(lambda engine: chunks_of(engine, reasoning_effort="low"))


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


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("models", '"id"', '"name"'),
        ("models", '"data"', '"data": [], "others"'),
        ("tokenize", '"tokens"', '"ids"'),
        ("logprobs", "token_id:", "a secret "),
        ("logprobs", '"token_ids":[', '"token_ids":[1000000,'),
        ("logprobs", '"completion_tokens":', '"completion_tokens":-'),
    ],
)
def test_answers_that_cannot_be_read_make_the_server_unavailable(
    name: str,
    old: str,
    new: str,
    run: Callable[..., Any],
    vllm: FakeVllm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = RECORDED[name]["body"].replace(old, new)
    assert body != RECORDED[name]["body"]
    monkeypatch.setitem(RECORDED, name, {"status": 200, "body": body})
    vllm.completion = "logprobs"
    with pytest.raises(Unavailable) as caught:
        run(lambda engine: chunks_of(engine, probe=True, probe_error=True))
    assert caught.value.details["code"] == "engine_unavailable"
    assert "secret" not in "".join(traceback.format_exception(caught.value))


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
            assert caught.value.details["code"] == "engine_unavailable"
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


def test_metrics_are_those_of_vllm_alone(run: Callable[..., Any]) -> None:
    text = run(lambda engine: engine.metrics(5.0))
    assert "vllm:num_requests_running" in text
    assert "python_info" not in text


def test_an_adapter_is_verified_and_served_by_its_digest(
    run: Callable[..., Any],
    vllm: FakeVllm,
    adapters: VllmAdapters,
    served_adapter: AdapterRef,
    tmp_path: Path,
) -> None:
    run(lambda engine: chunks_of(engine, adapter=served_adapter))
    assert vllm.body_of("/v1/completions")["model"] == served_adapter.digest
    folder = tmp_path / "cache" / served_adapter.digest
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "/models/tiny"
    assert config["lora_alpha"] == config["r"]
    assert config["exported_from"] == [served_adapter.digest]
    other = type(served_adapter)("0" * 64, served_adapter.path)
    with pytest.raises(InvalidInput, match="digest") as caught:
        run(lambda engine: chunks_of(engine, adapter=other))
    assert caught.value.details["code"] == "adapter_digest_mismatch"


def test_an_adapter_whose_answers_are_nan_makes_no_server_unreachable(
    run: Callable[..., Any], vllm: FakeVllm, served_adapter: AdapterRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = re.sub(r'"token_logprobs":\[[^]]*\]', '"token_logprobs":[null]', RECORDED["logprobs"]["body"])
    monkeypatch.setitem(RECORDED, "nan", {"status": 200, "body": body})
    vllm.completion = "nan"
    with pytest.raises(Unavailable, match="cannot be decoded"):
        run(lambda engine: chunks_of(engine, adapter=served_adapter, probe=True, probe_error=True))


def test_an_answer_that_nests_too_deep_is_refused(
    run: Callable[..., Any], vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECORDED, "deep", {"status": 200, "body": 'data: {"x":' + "[" * 100_000 + "\n\n"})
    vllm.completion = "deep"
    with pytest.raises(Unavailable, match="cannot be decoded"):
        run(chunks_of)


def test_exports_that_wait_delay_nothing_else(
    adapters: VllmAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(adapters, "_export", lambda *_: may_end.wait())

    async def use() -> None:
        refs = [AdapterRef(f"{number:064x}", "/nowhere") for number in range(64)]
        exports = [asyncio.create_task(adapters.prepare(ref, "base")) for ref in refs]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                await asyncio.to_thread(lambda: None)
        finally:
            may_end.set()
        await asyncio.gather(*exports)

    asyncio.run(use())


def test_an_adapter_that_ends_the_verifying_process_is_unavailable(
    adapters: VllmAdapters, served_adapter: AdapterRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapters, "CHILD", "workers.no_such_module")
    with pytest.raises(Unavailable, match="verifies adapters failed"):
        asyncio.run(adapters.prepare(served_adapter, "base"))


def test_an_adapter_that_takes_more_memory_than_any_may_is_refused(
    served_model: Path, served_adapter: AdapterRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapters, "CHILD", "tests.support.memoryless_verifier")
    base = ServedBase(served_model, base_model_digest(served_model), "float32", 1 << 14)
    folder = shutil.copytree(served_adapter.path, tmp_path / "hostile")
    os.truncate(folder / "adapter_model.safetensors", 64 << 20)
    adapters = VllmAdapters(base, tmp_path / "cache")
    try:
        with pytest.raises(InvalidInput, match="do not fit into memory") as caught:
            asyncio.run(adapters.prepare(AdapterRef(served_adapter.digest, str(folder)), "base"))
    finally:
        adapters.close()
    assert caught.value.details["code"] == "adapter_too_large"


def test_torch_without_memory_refuses_the_adapter(
    served_model: Path, served_adapter: AdapterRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Exporter(Start(str(served_model), base_model_digest(served_model), "float32", 32))
    monkeypatch.setattr(exporter, "_blend", lambda _: torch.empty(1 << 50))
    message = Export(str(tmp_path / served_adapter.digest), "base", adapter=served_adapter)
    assert exporter.answer(message)["code"] == "adapter_too_large"
    monkeypatch.setattr(exporter, "_blend", lambda _: torch.empty(-1))
    with pytest.raises(RuntimeError, match="negative"):
        exporter.answer(message)


def test_the_number_of_blends_on_disk_is_bounded(
    adapters: VllmAdapters, served_adapter: AdapterRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapters, "MAX_BLENDS", 2)
    blends = [AdapterBlend((BlendPart(served_adapter, weight),)) for weight in (0.5, 0.25, 0.125)]
    folders = [tmp_path / "cache" / blend.digest for blend in blends]

    async def use() -> None:
        await adapters.prepare(served_adapter, "base")
        for blend in blends[:2]:
            await adapters.prepare(blend, "base")
        with pytest.raises(Unavailable, match="2 different blends"):
            await adapters.prepare(blends[2], "base")
        for folder in folders[:2]:
            os.utime(folder, (0, 0))
        await adapters.prepare(blends[0], "base")
        await adapters.prepare(blends[2], "base")

    asyncio.run(use())
    assert [folder.is_dir() for folder in folders] == [True, False, True]
    assert (tmp_path / "cache" / served_adapter.digest).is_dir()
