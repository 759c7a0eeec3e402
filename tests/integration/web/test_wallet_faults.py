"""What a page says when a wallet, the chain or the market fails, and how one goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.support.page_wallet import NAME
from tests.support.waiting import wait_for
from tools.local_market import CREATOR, OPERATOR, PAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

    from tests.support.page_market import PageMarket
    from tests.support.page_wallet import PageWallet

PAYER, OTHER = PAYERS
UNITS = 5_000_000
OTHER_WALLET = """
(() => {
  const provider = { request: () => Promise.reject(Object.assign(new Error("locked"), { code: 4100 })) };
  const info = { uuid: "00000000-0000-4000-8000-000000000002", name: "Another wallet", icon: "" };
  window.addEventListener("eip6963:requestProvider", () => window.dispatchEvent(
    new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider }) })));
})();
"""
SEND, SIGN = "Send with the wallet", "Sign with the wallet"


@pytest.fixture
def lost(page: Page, reports: list[str]) -> Iterator[None]:
    """Requests may get lost in this test."""
    yield
    reports[:] = [text for text in reports if "Failed to load resource" not in text]


def fault(page: Page) -> Locator:
    return page.get_by_role("dialog").get_by_role("alert")


def start(page: Page, region: str, dollars: str) -> None:
    """Enter the dollars, and press the button below them."""
    forms = page.get_by_role("region", name=region).locator("form")
    form = forms.filter(has=page.get_by_label("Dollars")).first
    form.get_by_label("Dollars").fill(dollars)
    form.get_by_role("button").click()


def propose(page: Page, market: PageMarket, region: str, dollars: str) -> None:
    page.goto(f"{market.url}/account")
    start(page, region, dollars)


@pytest.mark.usefixtures("lost")
def test_what_fails_is_tried_again_with_what_is_signed(page: Page, market: PageMarket) -> None:
    wallet = market.enter(page, PAYER)
    wallet.chain_id, wallet.declines = 1, {"wallet_switchEthereumChain"}
    propose(page, market, "Deposit", "5")
    sign = page.get_by_role("button", name=SIGN)
    sign.click()
    expect(fault(page)).to_have_text("You declined in the wallet. Nothing was signed or sent.")
    wallet.declines = {"eth_signTypedData_v4"}
    sign.click()
    expect(fault(page)).to_have_text("You declined in the wallet. Nothing was signed or sent.")
    assert wallet.chain_id == market.market.chain.chain_id
    wallet.declines = set()
    page.route("**/deposits/relay", lambda route: route.abort())
    sign.click()
    expect(fault(page)).to_contain_text("The market does not answer.")
    expect(fault(page)).to_contain_text("What is signed is kept in this window")
    page.unroute("**/deposits/relay")
    page.route("**/session/v1/transactions/*", lambda route: route.abort())
    sign.click()
    row = page.locator("#pending li")
    expect(row).to_contain_text("The transaction is not lost")
    page.reload()
    expect(row).to_contain_text("Deposit 5 dollars")
    page.unroute("**/session/v1/transactions/*")
    expect(row).to_have_attribute("data-state", "right")
    assert len(wallet.signed) == 1


@dataclass
class Replacing:
    """A wallet whose next transaction waits for a block, so that it can be replaced."""

    page: Page
    market: PageMarket
    wallet: PageWallet
    sent: list[dict[str, Any]] = field(default_factory=list)
    hash: str = ""

    def send(self) -> Locator:
        """Start to withdraw. Returns the row of the transaction, which waits."""
        node = self.wallet.node

        def wait(method: str, params: list[Any]) -> Any:
            assert node is not None
            if method == "eth_sendTransaction":
                self.sent.append(params[0])
                self.market.market.rpc("evm_setAutomine", False)
            return node(method, params)

        self.wallet.node = wait
        propose(self.page, self.market, "Withdraw", "1")
        self.page.get_by_role("button", name=SEND).click()
        row = self.page.locator("#pending li")
        expect(row).to_contain_text("It waits for a block.")
        assert wait_for(self._has_nonce)
        self.hash = (row.get_attribute("data-path") or "").rpartition("/")[2]
        return row

    def _has_nonce(self) -> bool:
        kept = self.page.evaluate("() => Object.values(localStorage).join()")
        return re.search(r'"nonce":\d', kept) is not None

    def replace(self, **changes: Any) -> str:
        """Send another transaction with its nonce, in its place. Returns the hash."""
        rpc, (sent,) = self.market.market.rpc, self.sent
        waiting = rpc("eth_getTransactionByHash", self.hash)
        fees = {name: hex(2 * int(waiting[name], 16)) for name in ("maxFeePerGas", "maxPriorityFeePerGas")}
        fees["nonce"] = waiting["nonce"]
        try:
            return str(rpc("eth_sendTransaction", {**sent, **fees, **changes}))
        finally:
            rpc("evm_setAutomine", True)
            rpc("evm_mine")


def test_a_transaction_that_the_wallet_cancels_is_said_to_be_so(page: Page, market: PageMarket) -> None:
    replacing = Replacing(page, market, market.enter(page, PAYER))
    row = replacing.send()
    page.reload()
    expect(row).to_contain_text("It waits for a block.")
    other = replacing.replace(to=PAYER.account, data="0x", gas=hex(21_000))
    expect(row).to_have_attribute("data-state", "wrong")
    expect(row.locator(".tag")).to_have_text("cancelled")
    expect(row).to_contain_text(f"You cancelled it in the wallet, by transaction {other}")


@pytest.mark.deep
def test_a_transaction_in_the_place_of_another_one_is_named(page: Page, market: PageMarket) -> None:
    replacing = Replacing(page, market, market.enter(page, PAYER))
    row = replacing.send()
    other = replacing.replace(to=OTHER.account, data="0x", value="0x1")
    expect(row.locator(".tag")).to_have_text("replaced")
    expect(row).to_contain_text(f"Your wallet sent another transaction in its place: {other}")


def test_a_transaction_that_the_wallet_sends_again_is_followed(page: Page, market: PageMarket) -> None:
    replacing = Replacing(page, market, market.enter(page, PAYER))
    row = replacing.send()
    other = replacing.replace()
    expect(row).to_contain_text(f"Your wallet sent it again as {other}")
    expect(row).to_have_attribute("data-state", "right")
    row.get_by_role("button", name="Dismiss").click()
    page.reload()
    expect(row).to_have_count(0)


def test_what_a_slow_wallet_answers_after_the_dialog_was_closed_is_listed(
    page: Page, market: PageMarket
) -> None:
    wallet = market.enter(page, PAYER)
    propose(page, market, "Deposit", "2")
    page.get_by_role("button", name=SIGN).wait_for()
    wallet.hold(page)
    page.get_by_role("button", name=SIGN).click()
    page.get_by_role("button", name="Close").click()
    start(page, "Deposit", "3")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_contain_text("3 dollars")
    wallet.release(page)
    row = page.locator("#pending li")
    expect(row).to_contain_text("Deposit 2 dollars")
    expect(dialog.get_by_role("heading")).to_contain_text("3 dollars")
    expect(dialog.get_by_role("button", name=SIGN)).to_be_enabled()
    page.get_by_role("button", name="Close").click()
    expect(row).to_have_attribute("data-state", "right")


@pytest.mark.deep
def test_a_wallet_that_declines_after_the_dialog_was_closed_is_listed(page: Page, market: PageMarket) -> None:
    wallet = market.enter(page, PAYER)
    wallet.declines = {"eth_signTypedData_v4"}
    propose(page, market, "Deposit", "2")
    page.get_by_role("button", name=SIGN).wait_for()
    wallet.hold(page)
    page.get_by_role("button", name=SIGN).click()
    page.get_by_role("button", name="Close").click()
    wallet.release(page)
    row = page.locator("#pending li")
    expect(row).to_contain_text("not sent")
    expect(row).to_contain_text("You declined in the wallet.")
    row.get_by_role("button", name="Dismiss").click()
    expect(row).to_have_count(0)


@pytest.mark.deep
def test_another_account_than_the_signed_in_one_is_named(page: Page, market: PageMarket) -> None:
    market.enter(page, OTHER, session=PAYER)
    propose(page, market, "Deposit", "1")
    page.get_by_role("button", name=SIGN).click()
    expect(fault(page)).to_contain_text(f"The wallet offers {OTHER.account}, and you are signed in as")


@pytest.mark.deep
def test_the_signed_in_account_may_be_another_than_the_wallets_first(page: Page, market: PageMarket) -> None:
    market.enter(page, PAYER).others = (OTHER.account,)
    propose(page, market, "Deposit", "1")
    page.get_by_role("button", name=SIGN).click()
    expect(page.locator("#pending li")).to_have_attribute("data-state", "right")


@pytest.mark.deep
def test_of_several_wallets_that_show_no_account_one_is_chosen(page: Page, market: PageMarket) -> None:
    wallet = market.enter(page, PAYER)
    wallet.declines = {"eth_accounts"}
    page.add_init_script(OTHER_WALLET)
    propose(page, market, "Deposit", "1")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=SIGN).click()
    expect(dialog.get_by_role("listitem")).to_have_text([NAME, "Another wallet"])
    dialog.get_by_role("button", name=NAME).click()
    expect(page.locator("#pending li")).to_have_attribute("data-state", "right")


@pytest.mark.deep
def test_an_account_without_coin_is_told_to_get_some(page: Page, market: PageMarket) -> None:
    market.enter(page, PAYER)
    balance = market.market.rpc("eth_getBalance", PAYER.account, "latest")
    propose(page, market, "Deposit", "1")
    send = page.get_by_role("button", name=SEND)
    send.wait_for()
    market.market.rpc("hardhat_setBalance", PAYER.account, "0x0")
    send.click()
    expect(fault(page)).to_contain_text("too little of the chain's coin")
    market.market.rpc("hardhat_setBalance", PAYER.account, balance)
    send.click()
    rows = page.locator("#pending li[data-state=right]")
    expect(rows).to_have_text([re.compile(r"Deposit 1 dollar \(1 of 2\)"), re.compile(r"\(2 of 2\)")])


@pytest.mark.deep
@pytest.mark.usefixtures("lost")
def test_a_deposit_of_more_than_the_wallet_holds_is_refused(page: Page, market: PageMarket) -> None:
    wallet = market.enter(page, OTHER)
    propose(page, market, "Deposit", "1000000000")
    expect(fault(page)).to_contain_text("send it the token first")
    assert wallet.signed == []


@pytest.mark.deep
def test_a_payer_without_a_deposit_is_told_what_to_do(page: Page, market: PageMarket) -> None:
    market.enter(page, CREATOR)
    page.goto(f"{market.url}/account")
    expect(page.locator("#state")).to_contain_text("Nothing is deposited.")
    expect(page.get_by_role("region", name="Withdraw")).to_have_count(0)


@pytest.mark.deep
def test_a_transaction_that_fails_in_its_block_is_shown(page: Page, market: PageMarket) -> None:
    """A withdrawal from another window is mined first, so that nothing thaws for this one."""
    wallet, chain = market.enter(page, OTHER), market.market
    line = (OPERATOR.account, chain.settlement.contract)
    chain.send(OTHER, "PaymentVault", "thaw", *line, UNITS * 10**6)
    chain.pass_time(chain.chain.call("PaymentVault", "thawSeconds") + 1)
    prepared = chain.chain.prepare("PaymentVault", "withdraw", *line, sender=OTHER.account)
    node = wallet.node

    def second(method: str, params: list[Any]) -> Any:
        assert node is not None
        if method != "eth_sendTransaction":
            return node(method, params)
        chain.rpc("evm_setAutomine", False)
        chain.rpc("eth_sendTransaction", {**params[0], "to": prepared.to, "data": prepared.data})
        sent = node(method, params)
        chain.rpc("evm_mine")
        chain.rpc("evm_setAutomine", True)
        return sent

    def is_thawing() -> bool:
        with market.operator.installation.database.read() as tx:
            channel = tx.chain.channel(chain.channel_of(OTHER))
        return channel is not None and bool(channel.thawing)

    wallet.node = second
    assert wait_for(is_thawing)
    page.goto(f"{market.url}/account")
    page.get_by_role("button", name="Withdraw", exact=True).click()
    page.get_by_role("button", name=SEND).click()
    row = page.locator("#pending li")
    expect(row).to_have_attribute("data-state", "wrong")
    expect(row).to_contain_text("Nothing was changed, except for the gas.")
