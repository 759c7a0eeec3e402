from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.domain.money import AMOUNT
from backend.domain.sign_in_message import personal_digest
from tests.integration.api.conftest import FUNDS, sign_in
from tests.support.fakes import some_key
from tests.support.market import some_hash

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api


def test_the_api_needs_neither_torch_nor_web3() -> None:
    program = (
        "import sys; from typing import Any, cast; from backend.api.app import create_app\n"
        "from backend.settings import Settings\n"
        "create_app(cast(Any, None), Settings()).openapi()\n"
        "found = {'torch', 'transformers', 'web3', 'peft'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_answer_has_a_request_id(api: Api) -> None:
    with api.http() as http:
        ours = http.get("/health").headers["x-request-id"]
        theirs = http.get("/nowhere", headers={"x-request-id": "trace-1"}).headers["x-request-id"]
        insane = http.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert ours.startswith("req_")
    assert theirs == "trace-1"
    assert insane.startswith("req_")


def test_errors_of_the_framework_have_the_same_shape(api: Api) -> None:
    with api.http() as http:
        missing = http.get("/nowhere")
        wrong_method = http.put("/v1/models")
        no_json = http.post(
            "/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}
        )
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert missing.json()["error"]["message"].endswith("those of OpenAI's API begin with /v1.")
    assert (wrong_method.status_code, wrong_method.json()["error"]["code"]) == (405, "method_not_allowed")
    assert (no_json.status_code, no_json.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("name", ["body", "header", "path", "query"])
def test_a_field_named_like_a_part_of_the_request_is_refused_by_name(api: Api, name: str) -> None:
    with api.http(api.session) as http:
        answer = http.post("/v1/keys", json={"name": "a", name: 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")
    assert answer.json()["error"]["param"] == name


def test_a_body_that_is_too_large_is_refused_announced_or_not(api: Api) -> None:
    large = b" " * (5 << 20)
    with api.http() as http:
        announced = http.post("/v1/chat/completions", content=large)
        streamed = http.post(
            "/v1/chat/completions",
            content=(large[start : start + (1 << 20)] for start in range(0, len(large), 1 << 20)),
            headers={"content-type": "application/json"},
        )
    assert (announced.status_code, streamed.status_code) == (413, 413)
    codes = {answer.json()["error"]["code"] for answer in (announced, streamed)}
    assert codes == {"body_too_large"}


@pytest.mark.parametrize("token", ["", "llk_wrong", "lls_wrong", "something"])
def test_wrong_credentials_are_a_401(api: Api, token: str) -> None:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"{api.url}/v1/receipts", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"


def test_an_api_key_cannot_make_keys_or_move_money(api: Api) -> None:
    with api.http(api.key) as http:
        assert http.post("/v1/keys", json={"name": "another"}).status_code == 403
        assert http.post("/v1/deposits/prepare", json={"amount": "5"}).status_code == 403


def test_a_revoked_key_is_refused_and_its_session_stays(api: Api) -> None:
    with api.http(api.session) as http:
        (key,) = http.get("/v1/keys").json()["data"]
        assert api.key.startswith(key["hint"])
        assert http.delete(f"/v1/keys/{key['id']}").json()["revoked_at"]
        assert (
            httpx.get(f"{api.url}/v1/auth/me", headers={"authorization": f"Bearer {api.key}"}).status_code
            == 401
        )
        payer = api.installation.payer.account
        me = http.get("/v1/auth/me").json()
        assert (me["account"], me["account_id"]) == (payer, f"eip155:31337:{payer}")


def test_a_replayed_sign_in_is_refused(api: Api) -> None:
    signer = some_key("another wallet")
    challenge = httpx.post(f"{api.url}/v1/auth/challenges", json={"account": signer.account}).json()
    signature = signer.sign(personal_digest(challenge["message"]))
    body = {"message": challenge["message"], "signature": signature}
    first, second = (httpx.post(f"{api.url}/v1/auth/sessions", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 401)
    assert second.json()["error"]["param"] == "message"


def test_signing_out_ends_the_session(api: Api) -> None:
    with api.http(sign_in(api.url, some_key("another wallet"))) as http:
        assert http.delete("/v1/auth/session").status_code == 204
        assert http.get("/v1/auth/me").status_code == 401


def test_a_channel_tells_what_is_at_risk(api: Api) -> None:
    with api.http() as http:
        channel = http.get(f"/v1/channels/{api.installation.channel}").json()
        assert http.get("/v1/channels").json()["data"] == [channel]
        assert http.get(f"/v1/channels/{'0x' + 'ab' * 32}").status_code == 404
    assert channel["balance"] == channel["available"] == channel["cap"] == AMOUNT.render(FUNDS)
    assert (channel["thawing"], channel["thawed_at"]) == (AMOUNT.render(0), 0)
    (session,) = channel["sessions"]
    assert (session["is_custodial"], session["is_revoked"]) == (True, False)
    assert session["cap"] == AMOUNT.render(FUNDS)


def test_receipts_come_in_pages_and_only_to_their_payer(api: Api) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    with api.http() as http:
        ids = [
            http.post("/v1/chat/completions", json=body).json()["loraledger"]["receipt_id"] for _ in range(5)
        ]
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = http.get("/v1/receipts", params={"limit": 2} | ({"after": after} if after else {})).json()
            found += [item["id"] for item in page["data"]]
            after = page["next_cursor"]
    assert found == ids[::-1]
    with api.http(sign_in(api.url, some_key("curious"))) as http:
        assert http.get("/v1/receipts").json()["data"] == []
        shown = http.get(f"/v1/receipts/{ids[0]}").json()
        assert shown["salt"] is None
        assert shown["batch"] is None
        assert http.get(f"/v1/receipts/{'0x' + '12' * 32}").status_code == 404
        assert http.get("/v1/receipts/12").status_code == 400


def test_readiness_names_what_is_missing(api: Api) -> None:
    with api.http() as http:
        assert http.get("/ready").json() == {"status": "ok", "faults": {}}


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/datanets/{1 << 63}",
        f"/v1/datanets/{1 << 63}/contributions",
        f"/v1/datanets/{'9' * 5000}",
        f"/v1/transactions/{1 << 63}",
        f"/v1/fine_tuning/jobs/x/events?after={1 << 63}",
        f"/v1/governance/proposals/{1 << 256}",
    ],
)
def test_numbers_that_nothing_counts_with_are_a_400(api: Api, path: str) -> None:
    with api.http() as http:
        answer = http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "\ud800", "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "\ud800"}]}),
        ("/v1/chat/completions", {"\ud800": 1}),
        ("/v1/keys", {"name": "\udfff"}),
        ("/v1/auth/sessions", {"message": "\ud800", "signature": "0x"}),
        (
            "/v1/fine_tuning/jobs",
            {"snapshot_id": some_hash("snapshot"), "hyperparameters": {"\ud800": "\ud800"}},
        ),
    ],
)
def test_half_characters_are_a_400(api: Api, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()  # spells them as escapes, as JSON may
    assert b"\\ud" in content
    with api.http(api.session) as http:
        answer = http.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
