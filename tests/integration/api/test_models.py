"""Models as clients of other gateways read them: prices in dollars per token, and the context's length."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api


def test_prices_are_exact_dollars_per_token(api: Api) -> None:
    with api.http() as http:
        for model in http.get("/v1/models").json()["data"]:
            for kind in ("prompt", "completion"):
                per_token = Decimal(model["pricing"][kind])
                assert per_token * 10**6 == Decimal(model[f"{kind}_price"]["usd_per_million_tokens"])
                assert per_token > 0


def test_a_charge_follows_from_the_prices(api: Api) -> None:
    with api.http(api.key) as http:
        prices = http.get("/v1/models/tiny").json()["pricing"]
        answer = http.post("/v1/completions", json={"model": "tiny", "prompt": "a b"}).json()
    usage = answer["usage"]
    cost = sum(usage[f"{kind}_tokens"] * Decimal(prices[kind]) for kind in ("prompt", "completion"))
    assert Decimal(answer["loraledger"]["charge"]["usd"]) == cost
    assert usage["cost"] == float(cost)


def test_the_context_is_stated_while_the_engine_runs(api: Api) -> None:
    with api.http() as http:
        assert http.get("/v1/models/tiny").json()["context_length"] == api.installation.engine.max_context


def test_models_are_listed_without_an_engine(api: Api) -> None:
    api.installation.engine.is_gone = True
    with api.http() as http:
        assert {model["context_length"] for model in http.get("/v1/models").json()["data"]} == {None}
