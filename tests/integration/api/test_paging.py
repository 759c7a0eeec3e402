"""Pagination by cursors: items added during a walk do not shift pages."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.domain.governance import Proposal
from backend.domain.ids import DatanetId
from backend.domain.registries import Contribution, Datanet, Operator
from tests.integration.api.conftest import sign_in
from tests.integration.api.test_routers import a_batch
from tests.support.fakes import some_key
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from tests.integration.api.conftest import Api

UNPAGED = {"/v1/transfers"}
"""A wallet has few transfers."""

PROPOSAL = Proposal(1, some_account("voter"), "Lower the fee", (), (), (), 1, 2, 0, 0, 0, 0, 1)
CONTRIBUTION = Contribution(
    DatanetId(7), 0, some_account("x"), some_hash("a"), some_hash("b"), some_hash("c"), 1, True, 0, 1, 1
)


def add_datanet(api: Api, number: int) -> None:
    api.installation.view.datanet_list.append(
        Datanet(DatanetId(number), some_account("x"), "n", some_hash("d"), 0)
    )


def add_recorded(api: Api, number: int) -> None:
    if api.installation.view.datanet(DatanetId(7)) is None:
        add_datanet(api, 7)
    api.installation.view.recorded.append(
        replace(CONTRIBUTION, index=number, content_hash=some_hash(f"content {number}"))
    )


def add_operator(api: Api, number: int) -> None:
    operator = Operator(some_account(f"operator {number}"), "https://one", (), 7)
    api.installation.view.operator_list.append(operator)


def add_batch(api: Api, number: int) -> None:
    api.installation.view.committed.append(a_batch(number))


def add_proposal(api: Api, number: int) -> None:
    api.installation.view.proposal_list.append(replace(PROPOSAL, id=number))


def post(api: Api, path: str, **request: Any) -> None:
    with api.http(api.session) as http:
        assert http.post(path, **request).is_success
    api.installation.clock.pass_seconds(1)


def add_key(api: Api, number: int) -> None:
    post(api, "/v1/keys", json={"name": f"key {number}"})


def add_receipt(api: Api, _number: int) -> None:
    post(api, "/v1/completions", json={"model": "tiny", "prompt": "a"})


def add_upload(api: Api, number: int) -> None:
    if api.installation.view.datanet(DatanetId(7)) is None:
        add_datanet(api, 7)
    where = {"datanet": 7, "name": f"rows {number}", "licence": "MIT"}
    post(api, "/v1/contributions", params=where, content=f'{{"text": "row {"i" * number}"}}\n')


def add_job(api: Api, _number: int) -> None:
    post(api, "/v1/fine_tuning/jobs", json={"snapshot_id": some_hash("snapshot")})


def add_transaction(api: Api, number: int) -> None:
    with api.installation.begin() as tx:
        row = tx.transactions.enqueue(api.installation.operator, "PaymentVault", "thaw", [], f"{number}")
        tx.transactions.record_request(api.installation.payer.account, row)


def add_model(api: Api, number: int) -> None:
    record = api.installation.view.version(api.installation.version)
    assert record is not None
    api.installation.view.register(replace(record, name=f"name-{number}"))


LISTS: dict[str, Callable[[Api, int], None]] = {
    "/v1/models": add_model,
    "/v1/datanets": add_datanet,
    "/v1/datanets/7/contributions": add_recorded,
    "/v1/operators": add_operator,
    f"/v1/operators/{some_account('operator')}/batches": add_batch,
    "/v1/governance/proposals": add_proposal,
    "/v1/keys": add_key,
    "/v1/receipts": add_receipt,
    "/v1/transactions": add_transaction,
    "/v1/contributions": add_upload,
    "/v1/fine_tuning/jobs": add_job,
}


def test_every_list_has_pages(server: tuple[FastAPI, str]) -> None:
    paths = server[0].openapi()["paths"]
    lists = {
        path: {parameter["name"] for parameter in methods["get"].get("parameters", ())}
        for path, methods in paths.items()
        if "Page_" in str(methods.get("get", {}).get("responses", {}).get("200"))
    }
    assert {path for path, names in lists.items() if not {"after", "limit"} <= names} == UNPAGED
    assert len(lists) > 10


def test_a_walk_meets_everything_once_though_the_list_grows(api: Api) -> None:
    with api.http(api.session) as http:
        for path, add in LISTS.items():
            for number in range(1, 4):
                add(api, number)
            before = http.get(path, params={"limit": 100}).json()["data"]
            page = http.get(path, params={"limit": 2}).json()
            met = page["data"]
            add(api, 4)
            while page["next_cursor"] is not None:
                page = http.get(path, params={"limit": 2, "after": page["next_cursor"]}).json()
                met += page["data"]
            after = http.get(path, params={"limit": 100}).json()["data"]
            assert [item for item in met if item in before] == before, path
            assert all(met.count(item) == 1 for item in met), path
            assert len(after) == len(before) + 1, path


def test_what_is_no_cursor_of_the_list_is_refused(api: Api) -> None:
    wrong = ["zz", "*", "\u00e9", base64.b64encode(b"none").decode(), "AA", "MQ" * 60]
    with api.http(api.session) as http:
        for path, add in LISTS.items():
            add(api, 1)
            answers = [http.get(path, params={"after": cursor}) for cursor in wrong]
            assert {answer.status_code for answer in answers} == {400}, path
            assert {answer.json()["error"]["param"] for answer in answers} == {"after"}, path


def test_a_cursor_of_another_wallets_list_is_none_of_ones_own(api: Api) -> None:
    for number in range(3):
        add_job(api, number)
    with api.http(api.session) as http:
        cursor = http.get("/v1/fine_tuning/jobs", params={"limit": 1}).json()["next_cursor"]
    with api.http(sign_in(api.url, some_key("another wallet"))) as http:
        assert http.get("/v1/fine_tuning/jobs", params={"after": cursor}).status_code == 400


def test_a_limit_out_of_bounds_is_refused(api: Api) -> None:
    with api.http(api.session) as http:
        for limit in (0, 101, -1):
            answer = http.get("/v1/receipts", params={"limit": limit})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
