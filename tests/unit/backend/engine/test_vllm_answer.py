"""Answers of a vLLM server: log-probabilities, error vectors, and what cannot be read."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import torch

from backend.domain.errors import InvalidInput, Unavailable
from backend.engine.vllm import VllmEngine
from backend.engine.vllm_answer import AnswerReader, Choice, Part, Usage, read_answer_parts
from inference.protocol import AdapterRef, Chunk, Generate, JsonSchema, Sampling
from tests.support.vllm import RECORDED, FakeVllm, chunks_of, recorded_events

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.engine.vllm_adapters import VllmAdapters


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
    assert caught.value.code == "engine_unavailable"
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def with_nan(first_event: int) -> dict[str, Any]:
    """The recorded answer whose log-probabilities are NaN from this event on."""
    events = RECORDED["logprobs"]["body"].split("\n\n")
    nan = [re.sub(r"-\d+\.\d+", "null", event) for event in events[first_event:]]
    return {"status": 200, "body": "\n\n".join(events[:first_event] + nan)}


@pytest.mark.parametrize("num_events", [0, 2])
def test_an_adapter_whose_answer_becomes_nan_ends_it_as_in_our_engine(
    num_events: int,
    run: Callable[..., Any],
    vllm: FakeVllm,
    served_adapter: AdapterRef,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`InvalidInput` with this code is charged up to there, and puts no replica in doubt."""
    monkeypatch.setitem(RECORDED, "nan", with_nan(num_events))
    vllm.completion, vllm.first_events = "nan", num_events + 1
    num_chunks = num_events and num_events + 1

    async def use(engine: VllmEngine) -> list[Chunk]:
        asked = Generate("r", prompt="x", adapter=served_adapter, probe=True, probe_error=True)
        chunks = engine.generate(asked)
        found = [await anext(chunks) for _ in range(num_chunks)]
        with pytest.raises(InvalidInput, match=f"NaN or infinity under {served_adapter.digest}") as caught:
            await anext(chunks)
        assert caught.value.details["code"] == "numerical_error"
        return found

    found = run(use)
    assert [chunk.completion_tokens for chunk in found] == [1, 2, 2][:num_chunks]
    assert not any(chunk.finish_reason for chunk in found)
    if found:
        last = found[-1]
        assert (last.text, last.token_ids) == ("", [])
        assert last.probe is not None
        assert last.probe.num_answer_tokens == 2
    assert vllm.hung_up.wait(10)


def test_a_base_model_whose_answer_becomes_nan_makes_its_server_unavailable(
    run: Callable[..., Any], vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECORDED, "nan", with_nan(2))
    vllm.completion = "nan"
    with pytest.raises(Unavailable, match="do not fit") as caught:
        run(lambda engine: chunks_of(engine, probe=True, probe_error=True))
    assert caught.value.code == "engine_unavailable"


@pytest.mark.parametrize(
    ("text", "stop_reason", "is_cut_off"),
    [
        ('{"a": 1}', None, False),
        ("[" * 10_000 + "]" * 10_000, None, False),
        ('{"a": ', None, True),
        ('{"a": ', "end", False),
    ],
)
def test_an_answer_that_its_schema_cuts_off_fails_after_its_last_chunk(
    text: str, stop_reason: str | None, is_cut_off: bool, served_model: Path
) -> None:
    request = Generate("r", prompt="x", sampling=Sampling(constraint=JsonSchema("{}"), stop=("end",)))
    reader = AnswerReader(request, read_answer_parts(served_model))
    assert [chunk.text for chunk in reader.push(Part([Choice(text, [1])], Usage(3, 1)))] == [text]
    assert not list(reader.push(Part([Choice("", [2], None, "stop", stop_reason)], Usage(3, 2))))
    end = reader.end()
    last = next(end)
    assert (last.completion_tokens, last.finish_reason) == (2, None if is_cut_off else "stop")
    if is_cut_off:
        with pytest.raises(InvalidInput, match="too complex") as caught:
            next(end)
        assert caught.value.details["code"] == "grammar_too_complex"
    else:
        assert not list(end)


def test_the_engine_returns_the_cut_off_answer_before_its_error(
    run: Callable[..., Any], vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = {"text": '{"a": ', "token_ids": [1], "finish_reason": "stop", "stop_reason": None}
    event = {"choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 1}}
    monkeypatch.setitem(RECORDED, "cut off", {"status": 200, "body": f"data: {json.dumps(event)}\n\n"})
    vllm.completion = "cut off"

    async def use(engine: VllmEngine) -> Chunk:
        sampling = Sampling(constraint=JsonSchema("{}"))
        chunks = engine.generate(Generate("r", prompt="x", sampling=sampling))
        last = await anext(chunks)
        with pytest.raises(InvalidInput, match="too complex"):
            await anext(chunks)
        return last

    last = run(use)
    assert (last.text, last.completion_tokens, last.finish_reason) == ('{"a": ', 1, None)


def test_an_answer_that_nests_too_deep_is_refused(
    run: Callable[..., Any], vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECORDED, "deep", {"status": 200, "body": 'data: {"x":' + "[" * 100_000 + "\n\n"})
    vllm.completion = "deep"
    with pytest.raises(Unavailable, match="cannot be decoded"):
        run(chunks_of)
