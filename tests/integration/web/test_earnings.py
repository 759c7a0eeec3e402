"""A contributor's page on a real market: why it earned, and its claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.integration.web.test_receipt import answered
from tests.support.page_guide import Guide
from tools.local_market import CONTRIBUTORS, PAYERS

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.support.page_market import PageMarket

CONTRIBUTOR = CONTRIBUTORS[0]


def test_a_contributor_sees_why_it_earned_and_has_the_operator_send_its_claim(
    page: Page, market: PageMarket
) -> None:
    guide, dialog = Guide(page, "Earning"), page.get_by_role("dialog")
    market.enter(page, CONTRIBUTOR)
    page.goto(market.url)
    guide.step("Earnings").click()
    expect(page.get_by_role("heading", name="Nothing yet")).to_be_visible()
    receipt = answered(market.market, market.operator.installation.database)
    market.settle()

    page.reload()
    guide.step("By adapter").click()
    page.get_by_role("link", name="adapter", exact=True).click()
    guide.step("By contribution").click()
    page.get_by_role("link", name="1/0").click()
    with page.expect_download() as downloaded:
        guide.step("Download all as CSV").click()
    rows = downloaded.value.path().read_text().splitlines()
    assert len(rows) == 2
    assert receipt in rows[1]
    page.get_by_role("link", name=receipt[:10]).click()
    mine = page.locator(".share", has_text="you")
    expect(mine).to_contain_text("contribution 1/0 · 50 % of the influence")
    guide.step("All your earnings").click()

    before = market.market.dollars(CONTRIBUTOR.account)
    guide.step("Claim").click()
    guide.step("Have the operator send it").click()
    expect(page.locator("#pending li")).to_have_attribute("data-state", "right")
    expect(page.get_by_role("cell", name="less than a token unit")).to_be_visible()
    assert market.market.dollars(CONTRIBUTOR.account) > before
    # What is left is not worth the operator's gas, so the account's own wallet sends the change.
    guide.step("Change it").click()
    page.get_by_label("Address").fill(PAYERS[0].account)
    page.get_by_role("button", name="Change the payout wallet").click()
    dialog.get_by_role("button", name="Send with the wallet").click()
    expect(page.get_by_role("complementary")).to_contain_text("paid to this wallet")
    guide.end()
