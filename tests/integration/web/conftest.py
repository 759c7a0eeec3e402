"""Pages in a real Chromium, on a real server and database; engine and chain are scripted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.integration.api.conftest import Api, api, installation, server, url
from tests.support.page_market import keep_session, page_market
from tests.support.quick_keys import encrypt_quickly
from tools.browser import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from backend.chain.keys import LocalSigner
    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment
    from tests.support.page_market import PageMarket

expect.set_options(timeout=20_000)  # on a busy machine
__all__ = ["api", "installation", "server", "url"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module. Playwright runs an event loop in this thread, so tests here run none."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def market(
    hardhat_node: LocalNode, deployed: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PageMarket]:
    """A real market for one module, whose operator serves pages."""
    home = tmp_path_factory.mktemp("market") / "home"
    with pytest.MonkeyPatch.context() as patches:
        encrypt_quickly(patches)
        with page_market(hardhat_node, deployed, home) as found:
            yield found


@pytest.fixture
def reports() -> list[str]:
    """Errors that the page's console reported, violations of the content policy included."""
    return []


@pytest.fixture
def page(browser: Browser, reports: list[str]) -> Iterator[Page]:
    """An empty page. What its console reports fails the test."""
    context = browser.new_context()
    opened = context.new_page()
    opened.on("console", lambda message: reports.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: reports.append(str(error)))
    yield opened
    context.close()
    assert reports == []


def enter(page: Page, api: Api, signer: LocalSigner) -> None:
    keep_session(page, api.url, signer)


@pytest.fixture
def as_payer(page: Page, api: Api) -> None:
    enter(page, api, api.installation.payer)
