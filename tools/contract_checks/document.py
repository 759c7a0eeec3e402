"""Writes exemptions and survivors into docs/contract-checks.md; with --check, fails if the page differs."""

import json
import sys
from typing import Any

from tools import markdown
from tools.contract_checks.common import HERE, ROOT, fail

PAGE = ROOT / "docs" / "contract-checks.md"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(markdown.table(heads, rows)) if rows else "None."


def exemptions() -> str:
    entries = json.loads((HERE / "slither.json").read_text())
    rows = [
        [each["detector"], ", ".join(f"`{place}`" for place in each["where"]), each["reason"]]
        for each in entries
    ]
    return _table(["detector", "where", "reason"], rows)


def survivors() -> str:
    entries: list[dict[str, Any]] = json.loads((HERE / "survivors.json").read_text())
    place = "`{file}` `{function}`"
    rows = [[place.format(**each), f"`{each['change']}`", each["reason"]] for each in entries]
    return _table(["where", "change", "reason"], rows)


def filled(page: str) -> str:
    """Return the page with the tables between its markers replaced."""
    for name, text in (("exemptions", exemptions()), ("survivors", survivors())):
        page = markdown.filled(page, f"<!-- {name} -->", f"<!-- end of {name} -->", text)
    return page


def main() -> None:
    page = PAGE.read_text()
    text = filled(page)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif text != page:
        fail(f"{PAGE.relative_to(ROOT)} is behind: run python -m tools.contract_checks.document")


if __name__ == "__main__":
    main()
