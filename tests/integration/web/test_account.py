"""The payer's page on a real market: what a wallet does there, as the guide says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import expect

from tests.support.page_guide import Guide
from tests.support.page_market import confirmed
from tools.local_market import CREATOR, PAYERS

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.support.page_market import PageMarket

PAYER, OTHER = PAYERS


def test_a_payer_follows_the_guide(page: Page, market: PageMarket) -> None:
    wallet, guide, dialog = market.enter(page, PAYER), Guide(page, "Paying"), page.get_by_role("dialog")
    page.goto(market.url)
    guide.step("Account").click()
    expect(page.locator("#state")).to_contain_text("No key may charge it.")
    page.get_by_role("region", name="Deposit").get_by_label("Dollars").fill("20.00")
    guide.step("Deposit").click()
    expect(dialog).to_contain_text("$120.00 in all since the channel was opened")
    assert wallet.signed == []
    guide.step("Sign with the wallet").click()
    confirmed(page)
    assert "ReceiveWithAuthorization" in wallet.signed[0]
    expect(page.locator("#state .large")).to_have_text("$120.00 to spend now")

    keys = page.get_by_role("region", name="API keys")
    keys.get_by_label("Name").fill("laptop")
    keys.get_by_label("May spend at most").fill("5")
    guide.step("Create an API key").click()
    expect(keys.locator("pre")).to_contain_text("llk_")
    expect(keys.get_by_role("button", name="Copy the API key")).to_be_visible()
    page.reload()
    expect(keys).to_contain_text("of $5.00")
    expect(keys.locator("pre")).to_have_count(0)

    guide.step("Revoke").click()
    page.get_by_role("button", name="Sign with the wallet").click()
    confirmed(page)
    expect(page.locator("#state")).to_contain_text("$120.00 of the balance is not allowed to be charged.")
    guide.step("Allow charges").click()
    page.get_by_role("button", name="Sign with the wallet").click()
    confirmed(page)
    guide.step("Sign a voucher instead").click()
    page.get_by_role("region", name="Allow charges").get_by_label("Dollars more").last.fill("3")
    page.get_by_role("button", name="Sign a voucher").click()
    page.get_by_role("button", name="Sign with the wallet").click()
    expect(page.get_by_role("cell", name="$3.00")).to_be_visible()
    guide.end()


def test_a_payer_withdraws_by_the_guide(page: Page, market: PageMarket, reports: list[str]) -> None:
    guide = Guide(page, "Withdrawing")
    market.enter(page, OTHER)
    page.goto(f"{market.url}/account")
    region = page.get_by_role("region", name="Withdraw")
    region.get_by_label("Dollars").fill("5")
    guide.step("Start to withdraw").click()
    guide.step("Send with the wallet").click()
    confirmed(page)
    expect(region).to_contain_text("$5.00 thaws until")
    region.get_by_role("button", name="Withdraw", exact=True).click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("StillThawing")
    reports[:] = [text for text in reports if "status of 422" not in text]
    page.get_by_role("button", name="Close").click()
    market.market.pass_time(market.market.chain.call("PaymentVault", "thawSeconds") + 1)
    before = market.market.dollars(OTHER.account)
    guide.step("Withdraw").click()
    page.get_by_role("button", name="Send with the wallet").click()
    confirmed(page)
    expect(region.get_by_label("Dollars")).to_be_visible()
    assert market.market.dollars(OTHER.account) == before + 5_000_000
    guide.end()


def test_an_api_key_is_refused_with_what_to_write_and_revoked(
    page: Page, market: PageMarket, reports: list[str]
) -> None:
    market.enter(page, OTHER)
    page.goto(f"{market.url}/account")
    keys = page.get_by_role("region", name="API keys")
    keys.get_by_label("Name").fill("laptop")
    keys.get_by_label("May spend at most").fill("many")
    keys.get_by_role("button", name="Create").click()
    expect(keys.get_by_role("alert")).to_contain_text("'many' is not an amount in dollars")
    reports[:] = [text for text in reports if "status of 400" not in text]
    keys.get_by_label("May spend at most").fill("")
    keys.get_by_role("button", name="Create").click()
    page.once("dialog", lambda question: question.accept())
    keys.get_by_role("button", name="Revoke").click()
    expect(keys).to_contain_text("revoked")


def test_a_creator_deprecates_its_adapter(page: Page, market: PageMarket) -> None:
    guide = Guide(page, "Deprecating an adapter")
    market.enter(page, CREATOR)
    page.goto(f"{market.url}/m/{CREATOR.account}/adapter")
    guide.step("Deprecate this version").click()
    page.get_by_role("button", name="Deprecate").click()
    guide.step("Send with the wallet").click()
    expect(page.locator("#state")).to_contain_text("The creator has deprecated this version.")
    guide.end()


@pytest.mark.parametrize("path", ["/account", "/earnings", "/governance"])
def test_signed_out_the_pages_say_what_to_do(market: PageMarket, path: str) -> None:
    answer = httpx.get(market.url + path)
    assert (answer.status_code, "Connect your wallet" in answer.text) == (200, True)
