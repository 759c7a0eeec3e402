"""The README's pictures: the catalogue, and a receipt that the browser has checked through a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.pages.measures import SIZES, new_page
from tools.browser import chromium

if TYPE_CHECKING:
    from pathlib import Path


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
    """Write `catalogue.png` of the seeded installation and `receipt.png` of the one with a chain."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        catalogue = new_page(browser, seeded.url, seeded.session, "light", SIZES["desktop"])
        catalogue.goto(seeded.url + seeded.paths["catalogue"])
        catalogue.screenshot(path=folder / "catalogue.png")
        receipt = new_page(browser, on_chain.url, on_chain.session, "light", SIZES["desktop"])
        receipt.goto(on_chain.url + on_chain.paths["settled"])
        receipt.fill("input[name=node]", on_chain.node)
        receipt.click("#checks form button")
        receipt.locator("#checks[data-verdict=right]").wait_for()
        receipt.screenshot(path=folder / "receipt.png", full_page=True)
