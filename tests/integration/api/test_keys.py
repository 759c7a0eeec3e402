"""API keys with restricted permissions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from openai import OpenAI, PermissionDeniedError

from backend.domain.money import AMOUNT

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

ASKED = {"prompt": "a b", "max_tokens": 4}


def made(api: Api, **limits: Any) -> str:
    with api.http(api.session) as http:
        answer = http.post("/v1/keys", json={"name": "limited", **limits})
    assert answer.status_code == 201, answer.text
    assert {name: answer.json()["key"][name] for name in limits} == limits
    return str(answer.json()["secret"])


def adapter(api: Api) -> str:
    """Its name, without a version."""
    with api.http() as http:
        return str(http.get("/v1/models").json()["data"][-1]["id"]).partition("@")[0]


def status(api: Api, key: str, model: str, **headers: str) -> int:
    with api.http(key) as http:
        return http.post("/v1/completions", json=ASKED | {"model": model}, headers=headers).status_code


def test_a_key_asks_the_models_that_it_is_for_by_any_of_their_names(api: Api) -> None:
    name = adapter(api)
    with api.http() as http:
        view = http.get(f"/v1/models/{name}").json()
    others = [view["id"], view["version_id"], view["digest"]]
    for allowed in (name, *others):
        key = made(api, models=[allowed])
        assert [status(api, key, asked) for asked in (name, *others, "tiny")] == [200, 200, 200, 200, 403]
    with (
        OpenAI(base_url=f"{api.url}/v1", api_key=made(api, models=["tiny"]), max_retries=0) as client,
        pytest.raises(PermissionDeniedError) as refused,
    ):
        client.completions.create(model=name, prompt="a b")
    assert refused.value.code == "model_not_allowed"
    assert refused.value.param == "model"


def test_a_key_has_the_answers_of_others_repeated_only_if_it_may_ask_all_models(api: Api) -> None:
    name = adapter(api)
    once = {"idempotency-key": "one"}
    assert status(api, api.key, name, **once) == 200
    assert status(api, made(api, scopes=["account"]), name, **once) == 403
    assert status(api, made(api, models=["tiny"]), name, **once) == 422
    assert status(api, made(api, scopes=["answers"]), name, **once) == 200


def test_a_spend_cap_is_typed_in_dollars(api: Api) -> None:
    for cap in ("5.00", {"usd": "5"}, {"micro_units": "5000000000000"}):
        with api.http(api.session) as http:
            answer = http.post("/v1/keys", json={"name": "capped", "spend_cap": cap})
        assert answer.json()["key"]["spend_cap"] == {"micro_units": "5000000000000", "usd": "5"}
    with api.http(api.session) as http:
        listed = http.get("/v1/keys").json()["data"]
    assert listed[0]["spent"] == AMOUNT.render(0)


def test_a_key_for_answers_sees_nothing_of_the_account_and_the_other_way_round(api: Api) -> None:
    for scope, asks, sees in (("answers", 200, 403), ("account", 403, 200)):
        key = made(api, scopes=[scope])
        assert status(api, key, "tiny") == asks
        with api.http(key) as http:
            assert http.get("/v1/receipts").status_code == sees
            assert http.get("/v1/auth/me").status_code == 200
            assert http.post("/v1/keys", json={"name": "more"}).status_code == 403


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"models": []}, "invalid_parameter"),
        ({"models": [""]}, "invalid_parameter"),
        ({"models": ["tiny"] * 65}, "invalid_parameter"),
        ({"models": ["no-such-model"]}, "model_not_found"),
        ({"scopes": []}, "invalid_parameter"),
        ({"scopes": ["admin"]}, "invalid_parameter"),
        ({"spend_cap": 5}, "invalid_parameter"),
        ({"spend_cap": "5e0"}, "invalid_parameter"),
        ({"spend_cap": {"micro_units": "5", "usd": "5"}}, "invalid_parameter"),
    ],
)
def test_limits_that_mean_nothing_are_refused(api: Api, limits: dict[str, Any], code: str) -> None:
    with api.http(api.session) as http:
        answer = http.post("/v1/keys", json={"name": "limited", **limits})
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["code"] == code
