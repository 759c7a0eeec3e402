"""The stock OpenAI client with the local proxy, which pays by vouchers."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import uvicorn
from openai import OpenAI
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from typer.testing import CliRunner

from backend.cli.main import app
from backend.cli.payment_proxy import PaymentProxy, VoucherSigner
from backend.cli.proxy import open_voucher_signer
from backend.client.api import ApiClient
from backend.client.keystore import LocalKey
from backend.client.payments import own_channel
from backend.client.signing import Wallet
from backend.domain.channels import MAX_THAW_SECONDS, Grant
from backend.domain.errors import Conflict
from backend.domain.hashing import keccak
from backend.domain.ids import Account
from backend.domain.money import AMOUNT
from backend.loopback import listen
from tests.support.answering import JSON, answering
from tests.support.fakes import EXPIRY
from tests.support.market import some_account
from tests.support.terminal import act_as_payer, payer_client, scripted_deployment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from tests.integration.api.conftest import Api

HELLO: Any = [{"role": "user", "content": "say hello"}]
CAP, STEP = 5_000, 1_000
"""A request may cost 340 micro-units: two tokens at 10, sixteen at 20. Its answer costs 100."""


@pytest.fixture
def signer(api: Api) -> VoucherSigner:
    """Signs with a session key that the gateway does not hold."""
    installation, session = api.installation, LocalKey(keccak(b"session"))
    grant = Grant(installation.channel, session.account, CAP, EXPIRY, None)
    installation.view.granted[installation.channel] = [grant]
    wallet = Wallet(session, scripted_deployment(), approve=lambda _: None)
    return VoucherSigner(installation.channel, wallet, 0, CAP, STEP, int(time.time()) + 3600)


@contextmanager
def proxied(api: Api, signer: VoucherSigner, url: str | None = None) -> Iterator[str]:
    """A proxy's URL."""
    with serving(PaymentProxy(url or api.url, api.key, signer).app()) as found:
        yield found


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    with listen() as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def client_of(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none is needed", max_retries=0) as client:
        yield client


def channel(api: Api) -> dict[str, Any]:
    with api.http() as http:
        found: dict[str, Any] = http.get(f"/v1/channels/{api.installation.channel}").json()
    return found


def test_the_stock_client_needs_no_key_and_is_paid_for_by_vouchers(api: Api, signer: VoucherSigner) -> None:
    assert channel(api)["cap"] == AMOUNT.render(0)
    with proxied(api, signer) as url, client_of(url) as client:
        assert client.models.list().data[-1].id.startswith("0x")
        for number in (1, 2):
            answer = client.chat.completions.create(
                model=api.installation.version, messages=HELLO, max_tokens=16
            )
            assert answer.choices[0].message.content == "Hello there, world."
            found = channel(api)
            assert (found["charged"], found["cap"]) == (AMOUNT.render(100 * number), AMOUNT.render(STEP))
        text = client.completions.create(model=api.installation.version, prompt="say hello", max_tokens=16)
        assert text.choices[0].text == "Hello there, world."
        response = client.responses.create(
            model=api.installation.version, input="say hello", max_output_tokens=16
        )
        assert response.output_text == "Hello there, world."


def test_a_stream_arrives_as_the_gateway_sends_it_bill_included(api: Api, signer: VoucherSigner) -> None:
    asked: Any = {"model": api.installation.version, "messages": HELLO, "stream": True}
    with proxied(api, signer) as url, client_of(url) as client:
        chunks = list(client.chat.completions.create(**asked))
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked) as answer:
            lines = list(answer.iter_lines())
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-ratelimit-remaining-requests"]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello there, world."
    assert (chunks[-1].model_extra or {})["loraledger"]["charge"] == AMOUNT.render(100)
    assert lines[-2:] == ["data: [DONE]", ""]


def test_pieces_arrive_while_the_answer_goes_on_and_hanging_up_ends_it(
    api: Api, signer: VoucherSigner
) -> None:
    api.installation.engine.waits_after = 2
    with proxied(api, signer) as url, client_of(url) as client:
        stream = client.chat.completions.create(model=api.installation.version, messages=HELLO, stream=True)
        seen = ""
        for chunk in stream:
            seen += chunk.choices[0].delta.content or ""
            if seen == "Hello there":
                break
        stream.close()
        for _ in range(600):
            found = channel(api)
            if found["reserved"] == AMOUNT.render(0) != found["charged"]:
                break
            time.sleep(0.05)
    assert found["charged"] == AMOUNT.render(60)  # two tokens of the prompt and two of the answer


def test_what_the_proxy_may_spend_ends_at_its_cap(api: Api, signer: VoucherSigner) -> None:
    with proxied(api, replace(signer, max_cumulative=430)) as url, client_of(url) as client:
        asked: Any = {"model": api.installation.version, "messages": HELLO, "max_tokens": 16}
        assert client.chat.completions.create(**asked).choices
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(**asked)
    assert (refused.value.status_code, refused.value.code) == (402, "proxy_cap_reached")
    assert refused.value.body["details"]["left"] == AMOUNT.render(330)  # type: ignore[index]
    assert channel(api)["cap"] == AMOUNT.render(430)


def test_a_proxy_whose_session_key_expired_signs_nothing_and_says_what_to_do(
    api: Api, signer: VoucherSigner
) -> None:
    expired = replace(signer, expiry=int(time.time()))
    with (
        proxied(api, expired) as url,
        client_of(url) as client,
        pytest.raises(openai.APIStatusError, match="Start `loraledger proxy` again") as refused,
    ):
        client.chat.completions.create(model=api.installation.version, messages=HELLO)
    assert (refused.value.status_code, refused.value.code) == (402, "proxy_session_expired")
    assert channel(api)["cap"] == AMOUNT.render(0)


def test_nothing_is_signed_for_a_request_that_may_cost_more_than_a_step(
    api: Api, signer: VoucherSigner
) -> None:
    with (
        proxied(api, replace(signer, step=50)) as url,
        client_of(url) as client,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        client.chat.completions.create(model=api.installation.version, messages=HELLO)
    assert refused.value.code == "proxy_cap_reached"
    assert AMOUNT.parse(channel(api)["cap"]) <= 50


def test_a_gateway_that_states_higher_charges_gets_no_voucher_for_them(
    api: Api, signer: VoucherSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[int] = []

    async def call(_proxy: PaymentProxy, method: str, _path: str, body: Any = None) -> Any:
        if method == "POST":
            signed.append(int(body["max_cumulative"]))
        stated = {"charged": CAP - 1 - STEP, "reserved": 0, "cap": 0}
        return {name: AMOUNT.render(amount) for name, amount in stated.items()}

    monkeypatch.setattr(PaymentProxy, "_call", call)
    asked = {"model": api.installation.version, "messages": HELLO, "max_tokens": 16}
    with proxied(api, signer) as url:
        for _ in range(2 * CAP // STEP):  # neither lists of models nor refused requests raise the limit
            assert httpx.get(f"{url}/v1/models").status_code == 200
            refused = httpx.post(f"{url}/v1/chat/completions", json=asked)
            assert refused.json()["error"]["code"] == "proxy_cap_reached"
    assert signed == []


def test_a_request_that_ends_in_an_unexpected_way_counts_as_running_no_more(
    api: Api, signer: VoucherSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"model": api.installation.version, "messages": HELLO}
    proxies: list[PaymentProxy] = []
    app = PaymentProxy.app
    monkeypatch.setattr(PaymentProxy, "app", lambda proxy: (proxies.append(proxy), app(proxy))[1])
    encoding = {"content-encoding": "gzip"}
    with answering(402, JSON, "no gzip", **encoding) as gateway, proxied(api, signer, gateway) as url:
        assert httpx.post(f"{url}/v1/chat/completions", json=asked).status_code == 503
    assert [proxy._num_running for proxy in proxies] == [0]


def test_other_refusals_of_the_gateway_pass_unchanged(api: Api, signer: VoucherSigner) -> None:
    api.installation.fund(0)
    grant = Grant(api.installation.channel, Account(some_account("nobody")), CAP, EXPIRY, None)
    api.installation.view.granted[api.installation.channel] = [grant]
    with proxied(api, signer) as url, client_of(url) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="nothing", messages=HELLO)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.APIStatusError) as poor:
            client.chat.completions.create(model=api.installation.version, messages=HELLO)
        assert (poor.value.status_code, poor.value.code) == (402, "insufficient_balance")
        with pytest.raises(openai.BadRequestError) as wrong:
            client.chat.completions.create(model=api.installation.version, messages=HELLO, temperature=9)
        assert wrong.value.param == "temperature"


@pytest.mark.parametrize("headers", [{"origin": "https://page.example"}, {"host": "page.example"}])
def test_no_page_of_a_browser_spends(api: Api, signer: VoucherSigner, headers: dict[str, str]) -> None:
    with proxied(api, signer) as url:
        asked = {"model": api.installation.version, "messages": HELLO}
        refused = httpx.post(f"{url}/v1/chat/completions", json=asked, headers=headers)
        assert refused.status_code == 403
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 403
    assert channel(api)["charged"] == AMOUNT.render(0)


def test_only_models_and_answers_are_passed_on(api: Api, signer: VoucherSigner) -> None:
    with proxied(api, signer) as url:
        for path in ("/v1/keys", "/v1/receipts", "/v1/channels", "/health"):
            assert httpx.get(url + path).status_code == 404
        assert httpx.delete(f"{url}/v1/models").status_code == 405


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, '{"error": {"code": "insufficient_authorisation"}}'),
        (402, '{"error": {"code": "insufficient_authorisation", "details": {"required": 7}}}'),
        (402, "[" * 100_000),
        (200, "<html>"),
    ],
)
def test_answers_of_another_form_do_not_end_the_proxy(
    api: Api, signer: VoucherSigner, status: int, body: str
) -> None:
    asked = {"model": api.installation.version, "messages": HELLO}
    with answering(status, JSON, body) as gateway, proxied(api, signer, gateway) as url:
        for _ in range(2):
            answer = httpx.post(f"{url}/v1/chat/completions", json=asked)
            assert answer.status_code in {200, 402, 503}
    assert channel(api)["cap"] == AMOUNT.render(0)


def test_models_are_not_paid_for(api: Api, signer: VoucherSigner) -> None:
    details = {"required": AMOUNT.render(7)}
    asks = json.dumps({"error": {"code": "insufficient_authorisation", "details": details}})
    with answering(402, JSON, asks) as gateway, proxied(api, signer, gateway) as url:
        answer = httpx.get(f"{url}/v1/models")
    assert (answer.status_code, answer.text) == (402, asks)


def test_callers_that_name_no_encoding_get_none(api: Api, signer: VoucherSigner) -> None:
    listed = Route("/v1/models", lambda _: PlainTextResponse("a model"))
    with (
        serving(GZipMiddleware(Starlette(routes=[listed]), minimum_size=0)) as gateway,
        proxied(api, signer, gateway) as url,
        closing(HTTPConnection(urlsplit(url).netloc)) as caller,
    ):
        caller.putrequest("GET", "/v1/models", skip_accept_encoding=True)
        caller.endheaders()
        assert caller.getresponse().read() == b"a model"
        packed = httpx.get(f"{url}/v1/models", headers={"accept-encoding": "gzip"})
    assert (packed.text, packed.headers["content-encoding"]) == ("a model", "gzip")


def test_an_unreachable_gateway_is_reported(api: Api, signer: VoucherSigner) -> None:
    with (
        proxied(api, signer, "http://127.0.0.1:1") as url,
        client_of(url) as client,
        pytest.raises(openai.InternalServerError) as gone,
    ):
        client.models.list()
    assert (gone.value.status_code, gone.value.code) == (503, "unavailable")


@pytest.fixture
def relayed(api: Api, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The grants that the gateway relayed."""
    installation = api.installation
    relayed: list[dict[str, Any]] = []
    post = ApiClient.post

    def fake_post(client: ApiClient, path: str, body: Any = None) -> Any:
        """Indexes a grant at once."""
        if path != "/v1/sessions/relay":
            return post(client, path, body)
        relayed.append(body)
        grant = body["grant"]
        granted = Grant(installation.channel, grant["key"], int(grant["cap"]), int(grant["expiry"]), None)
        installation.view.granted[installation.channel].append(granted)
        return {"transaction_id": 1}

    monkeypatch.setattr(ApiClient, "post", fake_post)
    monkeypatch.setattr(ApiClient, "wait_confirmed", lambda *_: {})
    return relayed


def test_the_signer_is_a_new_key_that_the_wallet_granted_up_to_the_cap(
    api: Api, relayed: list[dict[str, Any]]
) -> None:
    with payer_client(api).sign_in() as client:
        opened = open_voucher_signer(client, own_channel(client), CAP, STEP)
    assert (opened.max_cumulative, opened.step, opened.channel_id) == (CAP, STEP, api.installation.channel)
    assert relayed[0]["grant"]["cap"] == str(CAP)
    held = set(api.installation.held_keys.keys)
    assert relayed[0]["grant"]["key"] not in held


def test_nothing_is_signed_where_the_port_is_in_use(
    api: Api, monkeypatch: pytest.MonkeyPatch, relayed: list[dict[str, Any]]
) -> None:
    act_as_payer(api, monkeypatch)
    with listen() as other:
        port = other.getsockname()[1]
        done = CliRunner().invoke(app, ["proxy", "--port", str(port)])
    assert isinstance(done.exception, Conflict)
    assert f"cannot listen on port {port}: Address already in use" in str(done.exception)
    assert relayed == []
    with api.http(api.session) as http:
        assert [key["name"] for key in http.get("/v1/keys").json()["data"]] == ["test"]


@pytest.mark.parametrize("seconds", [3600, -3600, -MAX_THAW_SECONDS - 1])
@pytest.mark.parametrize("is_revoked", [False, True])
@pytest.mark.usefixtures("relayed")
def test_a_session_key_of_the_gateway_is_warned_of_while_its_vouchers_can_be_collected(
    api: Api, monkeypatch: pytest.MonkeyPatch, seconds: int, is_revoked: bool
) -> None:
    """For a thaw after its expiry or revocation."""
    [held] = api.installation.view.granted[api.installation.channel]
    now = int(time.time())
    granted = replace(held, expiry=now + seconds, revoked_at=now if is_revoked else None)
    api.installation.view.granted[api.installation.channel] = [granted]
    act_as_payer(api, monkeypatch)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    done = CliRunner().invoke(app, ["proxy", "--cap", "0.01", "--step", "0.01", "--port", "0"])
    assert done.exit_code == 0, done.exception
    assert done.stdout.startswith("http://127.0.0.1:")
    warning = "warning: the gateway holds a session key that may spend 0.0000001 dollars in all since"
    assert done.stderr.startswith(warning) == (seconds > -MAX_THAW_SECONDS)
