"""Text completions for the stock client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from backend.domain.hashing import response_bytes, salted_hash, to_bytes
from backend.domain.money import AMOUNT

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

TEXT = "Hello there, world."


def ask(api: Api, **changes: Any) -> Any:
    wanted: dict[str, Any] = {"model": api.installation.version, "prompt": "Once upon a time"} | changes
    return api.openai.completions.create(**wanted)


def test_a_text_is_continued_with_its_receipt(api: Api) -> None:
    answer = ask(api, temperature=0, stop=["x"])
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        TEXT,
        "stop",
    )
    assert answer.id.startswith("cmpl-")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 4)
    assert answer.model_extra["loraledger"]["charge"] == AMOUNT.render(4 * 10 + 4 * 20)
    (sent,) = api.installation.engine.requests
    assert (sent.prompt, sent.sampling.max_tokens, sent.sampling.stop) == ("Once upon a time", 16, ("x",))


def test_the_receipt_commits_to_the_request_as_it_came(api: Api) -> None:
    body = json.dumps({"model": "tiny", "prompt": "a"}, indent=3).encode()
    with api.http() as http:
        answer = http.post(
            "/v1/completions", content=body, headers={"content-type": "application/json"}
        ).json()
        shown = http.get(f"/v1/receipts/{answer['loraledger']['receipt_id']}").json()["receipt"]
    salt = to_bytes(answer["loraledger"]["salt"])
    assert shown["request_hash"] == salted_hash(salt, body)
    assert shown["response_hash"] == salted_hash(salt, response_bytes([TEXT]))


def test_a_continuation_streams_with_its_bill(api: Api) -> None:
    chunks = list(ask(api, stream=True, n=2, stream_options={"include_usage": True}))
    texts = ["", ""]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.text
    assert texts == [TEXT, TEXT]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert chunks[-1].model_extra["loraledger"]["charge"] == AMOUNT.render(4 * 10 + 8 * 20)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_the_older_shape(api: Api, stream: bool) -> None:
    found = ask(api, logprobs=2, stream=stream)
    chunks = list(found) if stream else [found]
    shown = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [token for each in shown for token in each.tokens] == ["Hello", " there", ", world", "."]
    assert [offset for each in shown for offset in each.text_offset] == [0, 5, 11, 18]
    assert shown[0].token_logprobs[0] == -0.5
    assert shown[0].top_logprobs[0] == {"Hello": -0.5, "\\xe2\\x82": -1.5}


def test_the_chosen_token_is_named_without_alternatives(api: Api) -> None:
    (choice,) = ask(api, logprobs=0).choices
    assert choice.logprobs.top_logprobs[0] == {"Hello": -0.5}


async def test_the_asynchronous_client_is_answered_too(api: Api) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.key, max_retries=0) as client:
        answer = await client.completions.create(model=api.installation.version, prompt=["one text"])
    assert answer.choices[0].text == TEXT


def test_a_prompt_that_fills_the_context_is_named(api: Api) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, prompt="word " * 200)
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_parameter"),
        ({"prompt": [1, 2, 3]}, "prompt", "invalid_parameter"),
        ({"prompt": ["a", 5]}, "prompt", "invalid_parameter"),
        ({"prompt": 5}, "prompt", "invalid_parameter"),
        ({"stop": 5}, "stop", "invalid_parameter"),
        ({"stop": [5]}, "stop", "invalid_parameter"),
        ({"logit_bias": {"a": 5}}, "logit_bias.a", "invalid_parameter"),
        ({"prompt": ["a", "b"]}, "prompt", "invalid_parameter"),
        ({"prompt": None}, "prompt", "missing_parameter"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"logprobs": True}, "logprobs", "invalid_parameter"),
        ({"logprobs": 21}, "logprobs", "invalid_parameter"),
    ],
)
def test_what_is_not_kept_is_refused_by_name(
    api: Api, changes: dict[str, Any], param: str, code: str
) -> None:
    wanted = {"model": api.installation.version, "prompt": "a"} | changes
    body = {name: value for name, value in wanted.items() if value is not None}
    with api.http() as http:
        answer = http.post("/v1/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, code)
    assert error["param"] == param
    assert api.installation.engine.requests == []
