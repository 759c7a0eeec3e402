"""Responses conform to the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from tests.support.market import some_account

if TYPE_CHECKING:
    import httpx
    from fastapi import FastAPI

    from tests.integration.api.conftest import Api

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
ADAPTER = {"messages": HELLO["messages"]}


def check(app: FastAPI, answer: httpx.Response, path: str) -> None:
    document = app.openapi()
    responses = document["paths"][path][answer.request.method.lower()]["responses"]
    family = f"{answer.status_code // 100}XX"
    stated = responses.get(str(answer.status_code)) or responses[family]
    schema = stated["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(answer.json())


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/v1/chat/completions", HELLO),
        ("/v1/chat/completions", ADAPTER | {"logprobs": True, "top_logprobs": 2, "n": 2}),
        ("/v1/chat/completions", ADAPTER | {"service_tier": "auto", "max_tokens": 1}),
        ("/v1/chat/completions", ADAPTER | {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("/v1/responses", {"input": "a"}),
        (
            "/v1/responses",
            {"input": "a", "max_output_tokens": 1, "tools": [{"type": "function", "name": "f"}]},
        ),
        ("/v1/responses", {"input": "a", "store": True}),
        ("/v1/completions", {"prompt": "a", "logprobs": 1}),
        ("/v1/completions", {"prompt": "a", "n": 2}),
        ("/v1/chat/completions", HELLO | {"tools": []}),
        ("/v1/completions", {"model": "nobody", "prompt": "a"}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1 << 30}),
    ],
)
def test_answers_and_refusals(
    api: Api, server: tuple[FastAPI, str], path: str, changes: dict[str, Any]
) -> None:
    body = {"model": api.installation.version} | changes
    with api.http() as http:
        check(server[0], http.post(path, json=body), path)


def test_a_refusal_for_want_of_money(api: Api, server: tuple[FastAPI, str]) -> None:
    api.installation.fund(0)
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json=HELLO)
    assert answer.status_code == 402
    check(server[0], answer, "/v1/chat/completions")


@pytest.mark.parametrize(
    ("path", "at"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/tiny", "/v1/models/{model}"),
        ("/v1/channels", "/v1/channels"),
        ("/v1/receipts", "/v1/receipts"),
        ("/v1/receipts/0", "/v1/receipts/{receipt_id}"),
        ("/v1/attribution/0", "/v1/attribution/{receipt_id}"),
        ("/v1/keys", "/v1/keys"),
        ("/v1/auth/me", "/v1/auth/me"),
        ("/v1/earnings", "/v1/earnings"),
        ("/v1/earnings/entries", "/v1/earnings/entries"),
        ("/v1/earnings/entries/0", "/v1/earnings/entries/{receipt_id}"),
        ("/v1/earnings/summary", "/v1/earnings/summary"),
        ("/v1/datanets", "/v1/datanets"),
        ("/v1/operator", "/v1/operator"),
        ("/v1/operators", "/v1/operators"),
        (f"/v1/operators/{some_account('nobody')}/batches", "/v1/operators/{operator}/batches"),
        ("/v1/contributions", "/v1/contributions"),
        ("/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs"),
        ("/v1/governance/power", "/v1/governance/power"),
        ("/v1/transactions/12", "/v1/transactions/{transaction_id}"),
        ("/health", "/health"),
    ],
)
def test_what_is_listed(api: Api, server: tuple[FastAPI, str], path: str, at: str) -> None:
    with api.http(api.session) as http:
        http.post("/v1/chat/completions", json=HELLO)
        check(server[0], http.get(path), at)
