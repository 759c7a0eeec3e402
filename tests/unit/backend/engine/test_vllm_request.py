"""Requests to a vLLM server: parameters, constraints, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import InvalidInput
from backend.engine.vllm_request import UNSUPPORTED, completion_body
from backend.ports.engine import InvalidSchema, UnsupportedReasoning
from inference.protocol import (
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
from tests.support.vllm import FakeVllm, chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable


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


@pytest.mark.parametrize(
    ("schema", "rest"),
    [
        ({"type": "string", "x-guidance": {"whitespace_pattern": "[ ]{1,32700}"}}, {"type": "string"}),
        ({"type": "integer"}, {"type": "integer"}),
        (True, {}),
    ],
)
def test_schemas_are_sent_with_the_options_of_our_engine(schema: Any, rest: dict[str, Any]) -> None:
    sampling = Sampling(constraint=JsonSchema(json.dumps(schema)))
    body = completion_body(Generate("r", prompt="x", sampling=sampling), "base", [1])
    sent = json.loads(body["structured_outputs"]["json"])
    assert sent.pop("x-guidance") == {
        "whitespace_pattern": "[ \\t\\n\\r]{1,16}",
        "json_allowed_escapes": 'nrbtf\\"',
        "coerce_one_of": False,
        "lenient": False,
    }
    assert sent == rest


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
