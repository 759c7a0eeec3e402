"""A proposal's life through pages, by a voter's wallet on a real chain."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import TYPE_CHECKING

import httpx
from playwright.sync_api import expect

from tests.integration.api.test_paging import PROPOSAL
from tests.support.page_guide import Guide
from tests.support.page_market import confirmed
from tools.local_market import PAYERS

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.integration.api.conftest import Api
    from tests.support.page_market import PageMarket

VOTER = PAYERS[1]
WHY = "Lower the fee to two per cent"


def sent(page: Page, button: Locator) -> None:
    """Press the button, send what it proposes with the wallet, and wait until the page shows its effect."""
    button.click()
    page.get_by_role("button", name="Send with the wallet").click()
    confirmed(page)


def test_a_voter_changes_the_fee_by_the_guide(page: Page, market: PageMarket) -> None:
    guide, state, aside = Guide(page, "Voting"), page.locator("#state"), page.get_by_role("complementary")
    market.enter(page, VOTER)
    page.goto(market.url)
    guide.step("Governance").click()
    expect(aside).to_contain_text("they do not count")
    guide.step("Delegate").click()
    guide.step("Send with the wallet").click()
    expect(aside).not_to_contain_text("they do not count")
    page.get_by_role("button", name="Dismiss").click()
    market.market.pass_time(1)  # votes count from the second after

    page.get_by_label("Protocol fee").fill("2")
    page.get_by_label("Dispute window").fill("900")
    page.get_by_label("Why").fill(WHY)
    propose = guide.step("Propose the change")
    propose.click()
    expect(page.get_by_role("dialog")).to_contain_text("5 % → 2 %")
    expect(page.get_by_role("dialog")).to_contain_text("15 min is outside of the bounds")
    page.get_by_role("button", name="Close").click()
    page.get_by_label("Dispute window").fill("")
    sent(page, propose)
    page.get_by_role("link", name=WHY, exact=True).click()
    expect(page.get_by_role("row", name="Protocol fee, of each charge 5 % 2 %")).to_be_visible()
    expect(state).to_contain_text("would succeed now")

    market.market.pass_time(3)
    page.reload()
    sent(page, guide.step("Vote"))
    expect(state).to_contain_text("The quorum is reached")
    expect(state).to_contain_text("You have voted.")
    market.market.pass_time(10)
    page.reload()
    sent(page, guide.step("Queue the proposal"))
    market.market.pass_time(2)
    sent(page, guide.step("Carry it out"))
    expect(aside.locator(".tag")).to_have_text("executed")
    assert market.market.chain.call("Parameters", "current")["feePpm"] == 20_000
    guide.end()


def test_proposals_are_listed_in_pages_newest_first(api: Api) -> None:
    proposals = [replace(PROPOSAL, id=number, description=f"Change {number}.") for number in range(1, 23)]
    api.installation.view.proposal_list += proposals
    path, met = "/governance", []
    for _ in range(2):
        html = httpx.get(f"{api.url}{path}").text
        met += re.findall(r"Change (\d+)\.", html)
        found = re.search(r'href="(/governance\?after=[^"]+)">Earlier', html)
        path = unescape(found[1]) if found else ""
    assert [int(number) for number in met] == list(range(22, 0, -1))
    assert path == ""
    assert httpx.get(f"{api.url}/governance?after=zz").status_code == 400
