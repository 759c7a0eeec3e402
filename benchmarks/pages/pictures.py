"""Pictures for README and guides, among them a receipt that the browser has checked through a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.pages.measures import SETTLE_MS, SIZES, new_page
from tools.browser import chromium

if TYPE_CHECKING:
    from pathlib import Path


SEEDED = {"catalogue": "catalogue", "playground": "play", "datanet": "datanet", "job": "job"}
ON_CHAIN = {
    "account": "account_on_chain",
    "earnings": "earnings",
    "proposal": "proposal",
    "operator": "operator",
}
"""Pages of each installation by the picture's name."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running installation: paths of its measured pages by name, the cookie of the account that reads
    them, and the node of its chain.
    """

    url: str
    paths: dict[str, str]
    session: str
    node: str


def draw(seeded: Served, on_chain: Served, folder: Path) -> None:
    """Write `<page>.png` of each page that the documents show, and `receipt.png` of a checked receipt."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for served, pages in ((seeded, SEEDED), (on_chain, ON_CHAIN)):
            page = new_page(browser, served.url, served.session, "light", SIZES["desktop"])
            for name, path in pages.items():
                page.goto(served.url + served.paths[path])
                page.wait_for_timeout(SETTLE_MS)
                page.screenshot(path=folder / f"{name}.png")
        page.goto(on_chain.url + on_chain.paths["settled"])
        page.fill("input[name=node]", on_chain.node)
        page.click("#checks form button")
        page.locator("#checks[data-verdict=right]").wait_for()
        page.screenshot(path=folder / "receipt.png", full_page=True)
