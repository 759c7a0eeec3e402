from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "security.md").read_text()
PATH = re.compile(r"`((?:backend|benchmarks|contracts|inference|telemetry|tests|tools|workers)/[\w./-]+)`")


def test_the_code_and_the_tests_that_the_page_names_exist() -> None:
    named = set(PATH.findall(PAGE))
    assert len(named) > 50
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_each_threat_with_code_names_a_test() -> None:
    tables = [line for line in PAGE.splitlines() if line.startswith("|") and line.count("|") == 5]
    rows = [line for line in tables if "| --- |" not in line and "| threat |" not in line]
    for row in rows:
        *_, code, test, _ = row.split("|")
        assert PATH.search(code), row
        assert re.search(r"`(?:tests|tools)/", test), row
