"""Links between the pages lead to files and headings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deployments").rglob("*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as the hosts of repositories name them, and those that the page defines."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = {re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in HEADING.findall(text)}
    return {title.replace(" ", "-") for title in titles} | set(re.findall(r'<a id="([^"]+)">', text))


def broken(page: Path, link: str) -> bool:
    """Whether a link to a file or heading of this repository leads nowhere."""
    if re.match(r"[a-z]+:", link):
        return False
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return not target.exists() or (bool(anchor) and target.suffix == ".md" and anchor not in anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text()))
    assert [link for link in links if broken(page, link)] == []


def test_a_broken_link_is_found() -> None:
    page = ROOT / "docs" / "deploy.md"
    assert broken(page, "nowhere.md")
    assert broken(page, "operating.md#nowhere")
    assert broken(page, "#nowhere")
    assert not broken(page, "operating.md#replicas")
    assert not broken(page, "https://example.org/nowhere.md")
