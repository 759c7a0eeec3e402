"""Rate limits of requests and tokens by key, wallet and address."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import openai
import pytest

from backend.api.rate_limits import RateLimits
from backend.settings import Settings
from tests.integration.api.conftest import sign_in
from tests.support.fakes import some_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

    from tests.integration.api.conftest import Api

Limit = Callable[..., None]


@pytest.fixture
def limit(server: tuple[FastAPI, str]) -> Iterator[Limit]:
    """Sets rates, from nothing counted on; those before come back."""
    app, _ = server
    usual = app.state.rate_limits

    def set_rates(**rates: int) -> None:
        off = dict.fromkeys((name for name in Settings.model_fields if name.endswith("_per_minute")), 0)
        app.state.rate_limits = RateLimits(Settings(**(off | rates)))

    yield set_rates
    app.state.rate_limits = usual


def ask(api: Api) -> openai.types.chat.ChatCompletion:
    return api.openai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])


def test_every_answer_says_how_its_caller_stands(api: Api, limit: Limit) -> None:
    limit(key_requests_per_minute=10, wallet_requests_per_minute=5, key_tokens_per_minute=100)
    shown = []
    for _ in range(2):
        raw = api.openai.chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}]
        )
        names = ("limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens")
        shown.append([raw.headers[f"x-ratelimit-{name}"] for name in names])
    assert shown == [["5", "4", "100", "100"], ["5", "3", "100", "95"]]
    assert 0 < int(raw.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60


def test_refusals_and_streams_say_it_too(api: Api, limit: Limit) -> None:
    limit(wallet_requests_per_minute=5)
    with api.http() as http:
        refused = http.post("/v1/chat/completions", json={})
        streamed = http.post("/v1/completions", json={"model": "tiny", "prompt": "a", "stream": True})
    assert refused.headers["x-ratelimit-remaining-requests"] == "4"
    assert streamed.headers["x-ratelimit-remaining-requests"] == "3"


def test_a_wallets_keys_share_its_requests(api: Api, limit: Limit) -> None:
    limit(key_requests_per_minute=2, wallet_requests_per_minute=3)
    with api.http() as key, api.http(api.session) as session:
        assert [key.get("/v1/auth/me").status_code for _ in range(3)] == [200, 200, 429]
        refused = session.get("/v1/auth/me")
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert (error["details"]["scope"], error["details"]["limit"]) == ("wallet", 3)
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_another_wallet_is_not_held_up(api: Api, limit: Limit) -> None:
    other = sign_in(api.url, some_key("another wallet"))
    limit(wallet_requests_per_minute=1)
    with api.http() as mine, api.http(other) as theirs:
        assert [mine.get("/v1/auth/me").status_code for _ in range(2)] == [200, 429]
        assert theirs.get("/v1/auth/me").status_code == 200


def test_without_tokens_left_no_answer_begins(api: Api, limit: Limit) -> None:
    limit(key_tokens_per_minute=6)
    ask(api)  # one of the prompt and four of the answer
    ask(api)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(api)
    assert caught.value.code == "rate_limit_exceeded"
    assert "tokens" in caught.value.message
    assert len(api.installation.engine.requests) == 2
    with api.http() as http:
        assert http.get("/v1/auth/me").status_code == 200


def test_a_client_that_hangs_up_spends_its_tokens_too(api: Api, limit: Limit) -> None:
    limit(key_tokens_per_minute=3)
    api.installation.engine.waits_after = 2
    body = {"model": "tiny", "prompt": "a", "stream": True}
    with api.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines())
        for _ in range(600):
            shown = http.get("/v1/auth/me")
            if shown.headers["x-ratelimit-remaining-tokens"] == "0":
                return
    pytest.fail("the tokens were never counted")


def test_a_replay_counts_as_one_request(api: Api, limit: Limit) -> None:
    limit(wallet_requests_per_minute=10)
    with api.http() as http:
        found = [
            http.post(
                "/v1/completions", json={"model": "tiny", "prompt": "a"}, headers={"idempotency-key": "a"}
            )
            for _ in range(2)
        ]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in found] == ["9", "8"]


def test_strangers_are_counted_by_address(api: Api, limit: Limit) -> None:
    limit(address_requests_per_minute=2)
    account = some_key("payer").account
    found = [
        httpx.post(f"{api.url}/v1/auth/challenges", json={"account": account}).status_code for _ in range(3)
    ]
    assert found == [201, 201, 429]
    assert httpx.get(f"{api.url}/health").status_code == 200


def test_no_rates_are_no_limits(api: Api, limit: Limit) -> None:
    limit()
    with api.http() as http:
        shown = http.get("/v1/auth/me")
    assert shown.status_code == 200
    assert not [name for name in shown.headers if name.startswith("x-ratelimit")]
