"""The payer's page on a real market: what a wallet does there, and what it shows when something fails."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.support.page_market import page_market
from tools.local_market import PAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment
    from tests.support.page_market import PageMarket

PAYER = PAYERS[0]


@pytest.fixture(scope="module")
def market(
    hardhat_node: LocalNode, deployed: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PageMarket]:
    with page_market(hardhat_node, deployed, tmp_path_factory.mktemp("account") / "home") as found:
        yield found


def test_a_deposit_is_explained_signed_relayed_and_shown_live(page: Page, market: PageMarket) -> None:
    wallet = market.enter(page, PAYER)
    page.goto(f"{market.url}/account")
    expect(page.locator("#state")).to_contain_text("No key may charge it.")
    page.get_by_role("region", name="Deposit").get_by_label("Dollars").fill("20.00")
    page.get_by_role("button", name="Deposit").click()
    dialog = page.get_by_role("dialog", name="Deposit 20 dollars")
    expect(dialog).to_contain_text("$120.00 in all since the channel was opened")
    assert wallet.signed == []
    dialog.get_by_role("button", name="Sign with the wallet").click()
    expect(page.locator("#pending li")).to_have_attribute("data-state", "right")
    assert "WithAuthorization" in wallet.signed[0]
    expect(page.locator("#state .large")).to_have_text("$120.00 to spend now")
    expect(page.get_by_role("cell", name=re.compile("confirmed"))).to_be_visible()


def test_a_withdrawal_starts_with_own_gas_and_is_cancelled(page: Page, market: PageMarket) -> None:
    market.enter(page, PAYERS[1])
    page.goto(f"{market.url}/account")
    start = page.get_by_role("region", name="Withdraw")
    start.get_by_label("Dollars").fill("5")
    start.get_by_role("button", name="Start to withdraw").click()
    dialog = page.get_by_role("dialog", name="Start to withdraw 5 dollars")
    dialog.get_by_role("button", name="Send with the wallet").click()
    expect(page.locator("#pending li")).to_have_attribute("data-state", "right")
    expect(start).to_contain_text("$5.00 thaws until")
    expect(start.get_by_role("button", name="Withdraw", exact=True)).to_be_disabled()
    page.reload()
    expect(page.locator("#pending")).to_be_hidden()
    start.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Send with the wallet").click()
    expect(start.get_by_label("Dollars")).to_be_visible()


def test_an_api_key_is_shown_once_and_revoked(page: Page, market: PageMarket, reports: list[str]) -> None:
    market.enter(page, PAYERS[1])
    page.goto(f"{market.url}/account")
    keys = page.get_by_role("region", name="API keys")
    keys.get_by_label("Name").fill("laptop")
    keys.get_by_label("May spend at most").fill("many")
    keys.get_by_role("button", name="Create").click()
    expect(keys.get_by_role("alert")).to_contain_text("'many' is not an amount in dollars")
    keys.get_by_label("May spend at most").fill("5")
    keys.get_by_role("button", name="Create").click()
    expect(keys.locator("pre")).to_contain_text("llk_")
    page.reload()
    expect(keys).to_contain_text("of $5.00")
    expect(keys.locator("pre")).to_have_count(0)
    page.once("dialog", lambda question: question.accept())
    keys.get_by_role("button", name="Revoke").click()
    expect(keys).to_contain_text("revoked")
    reports[:] = [text for text in reports if "status of 400" not in text]  # of the amount above
