"""Why an account earned, by REST and on the command line, from real batches."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.cli.main import app as command_line
from backend.client.errors import ApiError
from backend.domain.catalogue import Agreement, Card, Description
from backend.domain.hashing import receipt_id
from backend.domain.ids import VersionId
from backend.domain.money import AMOUNT
from backend.domain.registries import Operator
from backend.services.accounts import credit_walk
from tests.support.earning_market import CONTRIBUTION, paying, serve_earnings
from tests.support.fakes import some_key
from tests.support.market import some_account, some_hash
from tests.support.settlement_steps import settle_batches
from tests.support.terminal import act_as_payer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from click.testing import Result
    from fastapi import FastAPI

    from tests.integration.api.conftest import Api
    from tests.support.settlement_harness import SettlementHarness

ENTRIES, SUMMARY = "/v1/earnings/entries", "/v1/earnings/summary"
OPERATOR = some_account("operator")


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SettlementHarness]:
    """Two batches that pay the payer of the API as a contributor."""
    harness = paying(some_key("payer").account, tmp_path_factory.mktemp("earnings"))
    settle_batches(harness, 2, answers=5)
    yield harness
    harness.database.close()


@pytest.fixture(autouse=True)
def _at_the_api(
    api: Api, server: tuple[FastAPI, str], harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as_payer(api, monkeypatch)
    serve_earnings(api, server[0], harness)


def get(api: Api, path: str, status: int = 200, **params: Any) -> Any:
    with api.http() as http:
        answer = http.get(path, params=params)
    assert answer.status_code == status, answer.text
    return answer.json()


def raw(api: Api, path: str, **options: Any) -> httpx.Response:
    with api.http() as http:
        return http.get(path, **options)


def refused(api: Api, path: str, status: int = 400, **params: Any) -> dict[str, Any]:
    error: dict[str, Any] = get(api, path, status, **params)["error"]
    return error


def total(items: list[dict[str, Any]]) -> int:
    return sum(AMOUNT.read(item["amount"]) for item in items)


def run(command: str) -> Result:
    return CliRunner().invoke(command_line, shlex.split(command))


def typed(command: str) -> str:
    result = run(command)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


# REST


def test_entries_are_those_of_the_caller_by_pages(api: Api) -> None:
    whole = get(api, ENTRIES)["data"]
    assert whole
    assert {entry["contribution"] for entry in whole} == {CONTRIBUTION}
    found, cursor = [], {}
    while True:
        page = get(api, ENTRIES, limit=2, **cursor)
        found += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = {"after": page["next_cursor"]}
    assert found == whole


def test_earnings_of_any_account_are_public(api: Api) -> None:
    treasury = get(api, ENTRIES, account=some_account("treasury"))["data"]
    assert {entry["role"] for entry in treasury} >= {"pool"}
    assert get(api, ENTRIES, account=some_account("without earnings"))["data"] == []


@pytest.mark.parametrize("by", ["day", "adapter", "contribution", "operator"])
def test_summaries_sum_up_the_entries(api: Api, by: str) -> None:
    entries = get(api, ENTRIES, limit=1000)["data"]
    summary = get(api, SUMMARY, by=by)
    assert (summary["by"], summary["account"]) == (by, api.installation.payer.account)
    assert total(summary["data"]) == total(entries)
    assert sum(group["num_entries"] for group in summary["data"]) == len(entries)
    keys = {group["key"] for group in summary["data"]}
    day = datetime.fromtimestamp(entries[0]["credited_at"], UTC).date().isoformat()
    expected = {
        "day": {day},
        "adapter": {entry["version_id"] for entry in entries},
        "contribution": {f"{entry['datanet']}/{entry['contribution']}" for entry in entries},
        "operator": {OPERATOR},
    }
    assert keys == expected[by]


def test_filters_of_the_query_are_applied(api: Api) -> None:
    whole = get(api, ENTRIES, limit=1000)["data"]
    one = whole[0]
    owner_and_name = one["adapter"].partition("@")[0]
    for name, value, key in (
        ("adapter", one["version_id"], "version_id"),
        ("adapter", one["adapter"], "version_id"),
        ("adapter", owner_and_name, "version_id"),
        ("contribution", f"{one['datanet']}/{one['contribution']}", "datanet"),
        ("operator", OPERATOR, "operator"),
        ("state", "pending", "state"),
    ):
        found = get(api, ENTRIES, limit=1000, **{name: value})["data"]
        assert found == [entry for entry in whole if entry[key] == one[key]], name
    assert get(api, ENTRIES, operator=some_account("other"))["data"] == []
    assert get(api, ENTRIES, state="final")["data"] == []
    assert get(api, ENTRIES, since="2020-01-01", until="2020-01-02")["data"] == []


def test_a_cursor_of_another_query_is_refused_by_name(api: Api) -> None:
    cursor = get(api, ENTRIES, limit=1)["next_cursor"]
    for path, params in (
        (ENTRIES, {"account": some_account("treasury")}),
        (ENTRIES, {"state": "pending"}),
        (ENTRIES, {"since": "2020-01-01"}),
        (ENTRIES, {"contribution": "1/2"}),
        (SUMMARY, {"by": "day"}),
    ):
        error = refused(api, path, after=cursor, **params)
        assert (error["code"], error["param"]) == ("cursor_of_another_query", "after")
    assert get(api, ENTRIES, limit=3, after=cursor)["data"]


@pytest.mark.parametrize("cursor", ["x", "!!", "YWJj", "00" * 100])
def test_what_is_no_cursor_is_refused(api: Api, cursor: str) -> None:
    assert refused(api, ENTRIES, after=cursor)["code"] == "invalid_input"


@pytest.mark.parametrize(
    ("params", "status", "param"),
    [
        ({"since": "2026-02-01", "until": "2026-01-01"}, 400, "since"),
        ({"since": "yesterday"}, 400, "since"),
        ({"contribution": "7"}, 400, "contribution"),
        ({"state": "paid"}, 400, "state"),
        ({"account": "0x12"}, 400, "account"),
        ({"adapter": "unknown/some-adapter"}, 404, "adapter"),
        ({"limit": 1001}, 400, "limit"),
        ({"format": "xml"}, 400, "format"),
    ],
)
def test_malformed_queries_are_refused_by_parameter(
    api: Api, params: dict[str, Any], status: int, param: str
) -> None:
    assert refused(api, ENTRIES, status, **params)["param"] == param


def test_csv_has_the_same_entries(api: Api) -> None:
    whole = get(api, ENTRIES)["data"]
    for options in ({"params": {"format": "csv"}}, {"headers": {"accept": "text/csv"}}):
        with api.http() as http:
            answer = http.get(ENTRIES, **options)
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [row["receipt_id"] for row in rows] == [entry["receipt_id"] for entry in whole]
        assert [int(row["amount_micro_units"]) for row in rows] == [
            AMOUNT.read(entry["amount"]) for entry in whole
        ]
    for accept in ("*/*", "application/json", "application/json, text/csv"):
        assert raw(api, ENTRIES, headers={"accept": accept}).json()["data"] == whole


def test_pages_of_csv_are_linked(api: Api) -> None:
    with api.http() as http:
        answer = http.get(ENTRIES, params={"format": "csv", "limit": 2, "state": "pending"})
        rows = answer.text.splitlines()[1:]
        while "next" in answer.links:
            answer = http.get(answer.links["next"]["url"])
            rows += answer.text.splitlines()[1:]
    assert len(rows) == len(get(api, ENTRIES)["data"])
    assert len(set(rows)) == len(rows)


def test_csv_of_an_account_without_entries_is_a_header(api: Api) -> None:
    answer = raw(api, ENTRIES, params={"format": "csv", "account": some_account("without earnings")})
    assert answer.text.startswith("credited_at,operator,batch,receipt_id,")
    assert len(answer.text.splitlines()) == 1


def test_a_receipt_shows_the_accounts_part_among_the_others(api: Api) -> None:
    entry = get(api, ENTRIES)["data"][0]
    found = get(api, f"{ENTRIES}/{entry['receipt_id']}")
    parts = [part for one in found["slices"] for part in one["parts"]]
    assert total(parts) == AMOUNT.read(found["charge"])
    mine = [part for part in parts if part["account"] == api.installation.payer.account]
    assert total(mine) == AMOUNT.read(found["amount"]) > 0
    assert (found["batch"], found["state"], found["operator"]) == (entry["batch"], "pending", OPERATOR)
    assert found["method_accuracy"] is None
    assert "states no agreement" in found["method_accuracy_reason"]
    assert found["proof_url"] is None
    assert not any("request" in name or "prompt_hash" in name for name in json.dumps(found).split('"'))


def test_the_accuracy_of_a_receipts_method_is_the_lowest_that_its_adapters_state(
    api: Api, harness: SettlementHarness
) -> None:
    names = ("method_accuracy", "method_accuracy_answers", "method_accuracy_reason")
    receipt = get(api, ENTRIES)["data"][0]["receipt_id"]
    found = get(api, f"{ENTRIES}/{receipt}")
    attributed = [one for one in found["slices"] if any(part["share_ppm"] for part in one["parts"])]
    versions = [VersionId(one["version_id"]) for one in attributed]
    for number, version in enumerate(versions):
        state_agreement(harness, version, Agreement({found["method"]: 0.625 + number / 10}, 40 + number))
    stated = get(api, f"{ENTRIES}/{receipt}")
    assert tuple(stated[name] for name in names) == (0.625, 40, None)
    assert "accuracy  agrees with the gradient at 0.62 on 40 generated" in typed(f"earnings show {receipt}")
    state_agreement(harness, versions[-1], Agreement({"another-1": 0.9}, 40))
    assert get(api, f"{ENTRIES}/{receipt}")["method_accuracy"] is None
    for version in versions:
        state_agreement(harness, version, None)


def state_agreement(harness: SettlementHarness, version: VersionId, agreement: Agreement | None) -> None:
    with harness.database.begin() as tx:
        tx.catalogue.describe(version, Description(), "", datetime.now(UTC))
        tx.catalogue.put_card(version, Card("", "", (), ""), "", agreement)


def test_receipts_that_cannot_be_shown_are_refused(api: Api, harness: SettlementHarness) -> None:
    unknown = refused(api, f"{ENTRIES}/{some_hash('receipt')}", 404)
    assert (unknown["code"], unknown["param"]) == ("not_found", "receipt")
    receipt = get(api, ENTRIES)["data"][0]["receipt_id"]
    nothing = refused(api, f"{ENTRIES}/{receipt}", 404, account=some_account("without earnings"))
    assert nothing["code"] == "nothing_earned"
    unsettled = receipt_id(harness.serve().receipt)
    assert refused(api, f"{ENTRIES}/{unsettled}", 409)["code"] == "receipt_not_credited"


def test_operators_that_cannot_be_verified_are_named_in_every_form(
    api: Api, harness: SettlementHarness
) -> None:
    other = some_account("another operator")
    (batch, *_), others = harness.chain.committed, harness.chain.others
    others.append(Operator(other, "", (), 0))
    harness.chain.committed.append(replace(batch, operator=other, hash=some_hash("other")))
    try:
        assert [one["operator"] for one in get(api, ENTRIES)["unverifiable"]] == [other]
        assert [one["operator"] for one in get(api, SUMMARY)["unverifiable"]] == [other]
        answer = raw(api, ENTRIES, params={"format": "csv"})
        assert answer.headers["x-unverifiable-operators"] == other
        for command in ("earnings --by day", "earnings entries", "earnings entries --csv"):
            assert f"without some batches of {other}" in run(command).stderr
    finally:
        others.pop()
        harness.chain.committed.pop()


# Command line


def test_the_terminal_sums_by_what_is_asked(api: Api) -> None:
    entries = get(api, ENTRIES)["data"]
    for by in ("day", "adapter", "contribution", "operator"):
        summary = json.loads(typed(f"earnings --by {by} --json"))
        assert total(summary["data"]) == total(entries)
        lines = typed(f"earnings --by {by}").splitlines()
        assert len(lines) == len(summary["data"])
        rows = list(csv.DictReader(io.StringIO(typed(f"earnings --by {by} --csv"))))
        assert sum(int(row["amount_micro_units"]) for row in rows) == total(entries)


def test_pages_of_a_summary_are_added(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = json.loads(typed("earnings --by operator --json"))
    monkeypatch.setattr(credit_walk, "MAX_RECEIPTS_READ", 1)
    assert get(api, SUMMARY, by="operator")["next_cursor"] is not None
    assert json.loads(typed("earnings --by operator --json")) == whole


def test_the_terminal_lists_and_exports_entries(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = get(api, ENTRIES)["data"]
    assert json.loads(typed("earnings entries --json")) == entries
    assert len(typed("earnings entries").splitlines()) == len(entries)
    whole = typed("earnings entries --csv")
    assert len(whole.splitlines()) == len(entries) + 1
    monkeypatch.setattr("backend.client.earnings.PAGE", 2)
    assert typed("earnings entries --csv") == whole
    assert json.loads(typed("earnings entries --json")) == entries
    empty = typed(f"earnings entries --csv --of {some_account('without earnings')}")
    assert empty.splitlines() == whole.splitlines()[:1]


def test_the_terminal_explains_a_receipt(api: Api) -> None:
    entry = get(api, ENTRIES)["data"][0]
    shown = typed(f"earnings show {entry['receipt_id']}")
    assert entry["adapter"] in shown
    part = rf"contributor for [123]/2, share \S+ %, to {api.installation.payer.account} \(this account\)\n"
    assert re.search(part, shown)
    assert "accuracy  The folder of an adapter states no agreement" in shown
    found = json.loads(typed(f"earnings show {entry['receipt_id']} --json"))
    assert found == get(api, f"{ENTRIES}/{entry['receipt_id']}")


def test_what_the_market_refuses_is_an_error(api: Api) -> None:
    for command, text in (
        (f"earnings show {some_hash('receipt')}", "name one that paid"),
        ("earnings entries --since 2026-02-01 --until 2026-01-01", "is after `until`"),
        ("earnings --by day --adapter x/y", "No adapter 'x/y'"),
    ):
        result = run(command)
        assert isinstance(result.exception, ApiError)
        assert text in str(result.exception)


def test_wrong_usage_is_said(api: Api) -> None:
    for command, text in (
        ("earnings --by week", "is not one of"),
        ("earnings --csv", "need --by"),
        ("earnings --since 2026-01-01", "need --by"),
        ("earnings --by day entries", "options follow the name of the command `entries`"),
    ):
        result = run(command)
        assert result.exit_code == 2
        assert text in " ".join(result.output.replace("│", " ").split())


def test_without_a_key_it_shows_what_can_be_claimed(api: Api) -> None:
    assert "to claim" in typed("earnings")
    assert json.loads(typed("earnings --json")) == get(api, "/v1/earnings")["data"]
