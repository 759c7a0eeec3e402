"""A new user of the pages: a browser of its own, and a wallet with a random key and no local network."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backend.chain.keys import LocalSigner
from backend.chain.node import Fees
from backend.chain.rpc import Rpc
from backend.chain.transactions import UnsignedTransaction, sign
from backend.domain.hashing import to_bytes
from backend.domain.money import GWEI
from tests.support.page_guide import Guide
from tests.support.page_wallet import NAME, PageWallet, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from backend.domain.ids import Account

UNKNOWN_CHAIN, MAINNET = 4902, 1


@dataclass
class NewWallet(PageWallet):
    """On the main network until a page adds another chain. It signs transactions itself, and sends them to
    the node that the page named.
    """

    added: list[dict[str, Any]] = field(default_factory=list)

    def _request(self, method: str, params: list[Any]) -> Any:
        if method == "wallet_switchEthereumChain" and self.node is None:
            raise Refusal(UNKNOWN_CHAIN, "Unrecognized chain ID.")
        if method == "wallet_addEthereumChain":
            self.added += params
            rpc = Rpc(params[0]["rpcUrls"][0])
            self.node = lambda name, values: rpc.request(name, *values)
            return None
        if method == "eth_sendTransaction" and self.node is not None:
            return self.node("eth_sendRawTransaction", [self._signed(params[0])])
        return super()._request(method, params)

    def _signed(self, asked: dict[str, Any]) -> str:
        assert self.node is not None
        gas = asked.get("gas") or self.node("eth_estimateGas", [asked])
        transaction = UnsignedTransaction(
            chain_id=int(asked["chainId"], 16),
            nonce=int(self.node("eth_getTransactionCount", [self.signer.account, "pending"]), 16),
            to=asked["to"],
            data=to_bytes(asked["data"]),
            gas=int(gas, 16),
            fees=Fees(2 * int(self.node("eth_gasPrice", []), 16) + GWEI, GWEI),
            value=int(asked["value"], 16),
        )
        return sign(self.signer, transaction).raw


@dataclass(frozen=True)
class Newcomer:
    """Follows a part of the guide at a time."""

    page: Page
    wallet: NewWallet
    reports: list[str]
    """What the console of its browser reported."""

    @property
    def account(self) -> Account:
        return self.wallet.signer.account

    def follow(self, part: str) -> Guide:
        return Guide(self.page, part)

    def sign_in(self, url: str) -> None:
        guide = self.follow("1. Sign in")
        self.page.goto(url)
        guide.step("Connect a wallet").click()
        self.page.get_by_role("button", name=NAME).click()
        guide.step("Sign in").click()
        self.page.get_by_role("button", name="Sign out").wait_for()
        guide.end()


@contextmanager
def newcomer(browser: Browser) -> Iterator[Newcomer]:
    """Someone with an empty account. Errors that the console reports fail the test."""
    reports: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.on("console", lambda message: reports.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: reports.append(str(error)))
    wallet = NewWallet(LocalSigner(os.urandom(32)), MAINNET)
    wallet.install(page)
    try:
        yield Newcomer(page, wallet, reports)
    finally:
        context.close()
    assert reports == []
