from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path("docs/adr")


def test_the_index_of_decisions_has_each_page_once_in_order_and_nothing_else() -> None:
    index = (FOLDER / "README.md").read_text()
    pages = [path.name for path in sorted(FOLDER.glob("[0-9]*.md"))]
    assert re.findall(r"^\| \[\d{4}\]\((.+?)\) \|", index, re.MULTILINE) == pages
    table = index[index.index("| --- |") :]
    assert all(line.startswith("|") for line in table.splitlines())
