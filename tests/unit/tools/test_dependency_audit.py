"""Evaluation of registries' answers, without network access."""

from __future__ import annotations

import json
from datetime import date

import pytest

from tools.dependency_audit import (
    ACCEPTED,
    Advisory,
    NotAudited,
    list_problems,
    npm_advisories,
    python_advisories,
)

FOUND = Advisory("jinja2", "PYSEC-1", "2.0, fixed in ['3.1']")
TODAY = date(2026, 5, 1)


def report(*vulnerabilities: dict[str, object]) -> str:
    return json.dumps(
        {"dependencies": [{"name": "jinja2", "version": "2.0", "vulns": list(vulnerabilities)}]}
    )


def test_an_advisory_of_pypi_is_named_with_its_cure() -> None:
    assert python_advisories(report({"id": "PYSEC-1", "fix_versions": ["3.1"]}), "") == [FOUND]
    assert python_advisories(report(), "") == []


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"dependencies": []}', '{"dependencies": [{"name": "x", "skip_reason": "not on PyPI"}]}'],
)
def test_no_answer_of_pypi_is_no_clean_bill(text: str) -> None:
    with pytest.raises(NotAudited):
        python_advisories(text, "ConnectionError: pypi.org")


def test_an_advisory_of_npm_is_named_once_where_it_lies() -> None:
    via = {
        "name": "undici",
        "url": "https://github.com/advisories/GHSA-1",
        "severity": "high",
        "title": "Leak",
    }
    packages = {"undici": {"via": [via]}, "hardhat": {"via": ["undici"]}}
    assert npm_advisories(json.dumps({"vulnerabilities": packages}), "") == [
        Advisory("undici", "GHSA-1", "high: Leak")
    ]


def test_no_answer_of_npm_is_no_clean_bill() -> None:
    with pytest.raises(NotAudited, match="405"):
        npm_advisories('{"statusCode": 405}', "npm error audit endpoint returned an error: 405")


def test_an_advisory_counts_unless_it_is_accepted_for_now() -> None:
    accepted = {"id": "PYSEC-1", "reason": "only its sandbox, which we do not use", "until": "2026-06-01"}
    assert list_problems([FOUND], [], TODAY) == ["jinja2: PYSEC-1 (2.0, fixed in ['3.1'])"]
    assert list_problems([FOUND], [accepted], TODAY) == []
    assert len(list_problems([FOUND], [accepted | {"until": "2026-04-30"}], TODAY)) == 2


def test_every_acceptance_has_a_reason_and_an_end() -> None:
    for each in json.loads(ACCEPTED.read_text()):
        assert each["reason"]
        assert date.fromisoformat(each["until"])
