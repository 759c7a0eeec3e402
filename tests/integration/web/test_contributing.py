"""On a real chain: a contribution is signed, reviewed and frozen; an adapter from elsewhere is registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.integration.api.test_adapters import publish
from tests.integration.web.test_datanets import GOOD, choose
from tests.integration.web.test_jobs import bring_adapter
from tests.support.contributions import jsonl
from tests.support.page_market import confirmed
from tools.local_market import CONTRIBUTORS, OPERATOR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.support.page_market import PageMarket

pytestmark = pytest.mark.deep


@pytest.fixture
def curators_page(browser: Browser, market: PageMarket) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    market.enter(page, OPERATOR)
    yield page
    context.close()


def test_a_contribution_is_signed_reviewed_and_frozen(
    page: Page, curators_page: Page, market: PageMarket
) -> None:
    wallet = market.enter(page, CONTRIBUTORS[0])
    page.goto(f"{market.url}/datanets")
    page.get_by_text("Create a datanet").click()
    page.get_by_label("Name").fill("letters")
    page.get_by_label("Licences that it accepts").fill("MIT")
    page.get_by_label("What its rows are for").fill("Questions about letters.")
    page.get_by_role("button", name="Create the datanet").click()
    page.get_by_role("button", name="Send with the wallet").click()
    confirmed(page)
    page.reload()
    page.get_by_role("link", name="letters").click()
    expect(page.get_by_text("Accepted licences: MIT.")).to_be_visible()
    datanet = page.url
    choose(page, jsonl(*GOOD))
    page.get_by_label("Licence of the rows").fill("MIT")
    page.get_by_role("button", name="Upload and check").click()
    wallet.declines = {"eth_signTypedData_v4"}
    page.get_by_role("button", name="Sign the contribution").click()
    page.get_by_role("button", name="Sign with the wallet").click()
    expect(page.locator("#transaction [role=alert]")).to_contain_text("You declined in the wallet")
    wallet.declines = set()
    page.get_by_role("button", name="Sign with the wallet").click()
    confirmed(page)
    assert '"primaryType":"Contribution' in "".join(wallet.signed).replace(" ", "")
    expect(page.get_by_role("heading", name="Recorded on the chain")).to_be_visible()
    expect(page.locator("#recorded tbody tr")).to_contain_text("you")

    curators_page.goto(datanet)
    rows = curators_page.locator("#contributions + table tbody tr")
    rows.last.get_by_role("link").click()
    expect(curators_page.locator("pre").first).to_contain_text("A letter.")
    curators_page.get_by_role("link", name="Decide as a curator").click()
    curators_page.get_by_role("button", name="Decide").click()
    curators_page.get_by_role("button", name="Send with the wallet").click()
    confirmed(curators_page)
    expect(page.get_by_role("heading", name="Accepted")).to_be_visible()

    page.goto(datanet)
    num_snapshots = page.get_by_role("link", name="Train on it").count()
    page.get_by_role("button", name="Freeze a snapshot").click()
    page.get_by_role("button", name="Have the operator send it").click()
    expect(page.get_by_role("link", name="Train on it")).to_have_count(num_snapshots + 1)


def test_an_adapter_from_elsewhere_is_registered(page: Page, market: PageMarket, reports: list[str]) -> None:
    creator, installation = CONTRIBUTORS[1], market.operator.installation
    market.enter(page, creator)
    page.goto(f"{market.url}/jobs")
    bring_adapter(page)
    page.wait_for_url("**/jobs/imports/adapter-*")
    stores = installation.database, installation.blobs
    publish(*stores, installation.training_payments, page.url.rpartition("/")[2])
    page.get_by_label("Name").fill("brought")
    page.get_by_label("You get, %").fill("95")
    page.get_by_role("button", name="Register", exact=True).click()
    expect(page.locator("#transaction [role=alert]")).to_contain_text("together must be at most")
    page.locator("#transaction").get_by_role("button", name="Close").click()
    page.get_by_label("You get, %").fill("30")
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_role("button", name="Send with the wallet").click()
    confirmed(page)
    expect(page.locator("#registered")).to_contain_text("not yet")
    assert installation.publication.record_registrations() == 1
    expect(page.locator("#registered a")).to_be_visible()
    reports.clear()  # the refused shares
