"""Signing in with a browser's wallet, and what happens when the wallet refuses."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import expect

from backend.domain.sign_in_message import STATEMENT, checksummed
from backend.services.accounts.sessions import Sessions
from tests.integration.api.conftest import tokens
from tests.support.market import CHAIN_ID
from tests.support.page_wallet import NAME, PageWallet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.integration.api.conftest import Api


def wallet_of(api: Api, chain_id: int = CHAIN_ID) -> PageWallet:
    return PageWallet(api.installation.payer, chain_id)


def connect(page: Page, api: Api) -> None:
    page.goto(api.url)
    page.get_by_role("button", name="Connect a wallet").click()
    page.get_by_role("button", name=NAME).click()


def test_a_wallet_signs_in_after_seeing_the_text_and_signs_out(page: Page, api: Api) -> None:
    wallet = wallet_of(api)
    wallet.install(page)
    connect(page, api)
    expect(page.locator("#wallet pre")).to_contain_text(STATEMENT)
    assert wallet.signed == []
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.locator(".account [title]")).to_have_attribute("title", checksummed(wallet.signer.account))
    cookie = next(one for one in page.context.cookies() if one["name"] == "loraledger_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Connect a wallet")).to_be_visible()


@pytest.mark.usefixtures("as_payer")
def test_a_page_whose_wallet_signed_out_elsewhere_asks_to_sign_in(page: Page, api: Api) -> None:
    page.goto(f"{api.url}/account")
    page.context.clear_cookies(name="loraledger_session")
    page.evaluate("document.body.dispatchEvent(new Event('transaction'))")
    expect(page.get_by_role("heading", name="Sign in to see what is yours")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
    expect(page.locator("header")).to_have_count(1)
    page.get_by_role("button", name="Connect your wallet").click()
    expect(page.get_by_role("dialog")).to_be_visible()


@pytest.mark.parametrize("path", ["/account", "/earnings", "/operate"])
def test_a_part_of_a_page_without_a_session_has_the_page_loaded_again(api: Api, path: str) -> None:
    part = httpx.get(f"{api.url}{path}", headers={"hx-request": "true"})
    assert (part.text, part.headers["hx-refresh"]) == ("", "true")
    assert "Sign in to see what is yours" in httpx.get(f"{api.url}{path}").text


def test_a_wallet_of_another_chain_is_asked_to_switch(page: Page, api: Api) -> None:
    wallet = wallet_of(api, chain_id=1)
    wallet.install(page)
    connect(page, api)
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
    assert wallet.chain_id == CHAIN_ID


@pytest.mark.parametrize("method", ["eth_requestAccounts", "wallet_switchEthereumChain", "personal_sign"])
def test_a_declined_question_is_explained_and_can_be_repeated(page: Page, api: Api, method: str) -> None:
    wallet = wallet_of(api, chain_id=1)
    wallet.declines = {method}
    wallet.install(page)
    connect(page, api)
    if method == "personal_sign":
        page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("You declined in the wallet. Nothing was signed or sent.")
    wallet.declines = set()
    if method != "personal_sign":
        page.get_by_role("button", name=NAME).click()
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_without_a_wallet_the_page_says_what_to_do(page: Page, api: Api) -> None:
    page.goto(api.url)
    page.get_by_role("button", name="Connect a wallet").click()
    expect(page.locator("#wallet")).to_contain_text("loraledger login")


def test_a_post_without_the_token_of_a_page_changes_nothing(api: Api) -> None:
    with httpx.Client(base_url=api.url, headers={"accept": "application/json"}) as client:
        client.get("/")
        assert client.cookies["loraledger_form"]
        for headers in ({}, {"x-form-token": "x"}, {"x-form-token": f"{'0' * 32}.{'0' * 64}"}):
            answer = client.post("/sign-out", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_an_expired_session_of_a_cookie_is_renewed(api: Api) -> None:
    with signed_in(api) as client:
        before = client.cookies["loraledger_session"]
        api.installation.clock.pass_seconds(1000)
        assert checksummed(api.installation.payer.account) in client.get("/").text
        assert client.cookies.get("loraledger_session", domain="127.0.0.1") != before


@contextmanager
def signed_in(api: Api) -> Iterator[httpx.Client]:
    """A browser that has opened a page as the payer."""
    found = tokens(api.url, api.installation.payer)
    with httpx.Client(base_url=api.url) as client:
        client.cookies.set(
            "loraledger_session", f"{found['token']}.{found['refresh_token']}", domain="127.0.0.1"
        )
        yield client


def test_a_script_calls_the_api_with_the_session_of_the_cookie(api: Api) -> None:
    with signed_in(api) as client:
        token = re.search(r'data-form-token="([^"]+)"', client.get("/").text)
        assert token is not None
        ours = {"x-form-token": token[1]}
        tus = {"tus-resumable": "1.0.0", "upload-length": "5"}
        made = client.post("/session/v1/transfers", headers=ours | tus)
        assert made.status_code == 201
        assert made.headers["location"] == f"/session/v1/transfers/{made.json()['id']}"
        assert made.headers["cache-control"] == "private, no-store"
        api.installation.clock.pass_seconds(1000)
        listed = client.get("/session/v1/transfers")
        assert [one["id"] for one in listed.json()["data"]] == [made.json()["id"]]
        assert "loraledger_session" in listed.headers["set-cookie"]
        for headers in ({}, {"x-form-token": "x"}):
            refused = client.post("/session/v1/transfers", headers=headers | tus)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        assert client.get("/v1/transfers").status_code == 401
        client.cookies.delete("loraledger_session")
        ended = client.post("/session/v1/transfers", headers=ours | tus)
        assert (ended.status_code, ended.json()["error"]["code"]) == (401, "unauthenticated")
        assert ended.headers["x-request-id"]


def test_a_fault_in_reading_the_session_is_an_error_of_the_api(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no database")

    with signed_in(api) as client:
        monkeypatch.setattr(Sessions, "of", fail)
        answer = client.get("/session/v1/transfers")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("kept", ["x", "lls_x.llr_y", ".", "lls_" + "a" * 43])
def test_a_cookie_that_names_no_session_is_removed(api: Api, kept: str) -> None:
    answer = httpx.get(api.url, cookies={"loraledger_session": kept})
    assert "Connect a wallet" in answer.text
    assert 'loraledger_session=""; HttpOnly; Max-Age=0' in answer.headers["set-cookie"]
