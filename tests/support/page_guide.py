"""The guides of docs/pages.md: what they name in italics is what a test clicks, in that order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backend.chain.local_node import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

GUIDE = ROOT / "docs" / "pages.md"
NAMED = re.compile(r"(?<!\*)\*([^*\n]+)\*(?!\*)")


class Guide:
    """One section, followed in a page."""

    def __init__(self, page: Page, section: str) -> None:
        text = GUIDE.read_text().split(f"\n### {section}\n")[1].split("\n#")[0]
        self.page, self._left = page, NAMED.findall(text)

    def step(self, name: str) -> Locator:
        """The control with this name, which is the next one that the section names."""
        assert self._left, f"the guide ends before {name}"
        assert self._left.pop(0) == name
        link, button = (self.page.get_by_role(role, name=name) for role in ("link", "button"))
        summary = self.page.locator("summary").filter(has_text=name)
        return link.or_(button).or_(summary).filter(visible=True).first

    def end(self) -> None:
        assert self._left == []
