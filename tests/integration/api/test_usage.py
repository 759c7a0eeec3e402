from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.money import AMOUNT
from tests.integration.api.conftest import sign_in
from tests.support.fakes import NOW, some_key

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

PERIOD = {"first": "2026-05-01", "last": "2026-05-31"}


def test_a_wallet_sees_what_its_answers_came_to(api: Api) -> None:
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    with api.http() as http:
        bills = [
            http.post("/v1/chat/completions", json=asked | {"model": model}).json()
            for model in ("tiny", "tiny", api.installation.version)
        ]
        found = http.get("/v1/usage", params=PERIOD).json()["data"]
    assert {row["day"] for row in found} == {NOW.date().isoformat()}
    by_version = {row["versions"][0]["version_id"]: row for row in found}
    base, adapter = by_version[api.installation.base_version], by_version[api.installation.version]
    assert (base["num_answers"], adapter["num_answers"]) == (2, 1)
    charged = [AMOUNT.parse(bill["loraledger"]["charge"]) for bill in bills]
    assert base["spend"] == AMOUNT.render(sum(charged[:2]))
    assert adapter["spend"] == AMOUNT.render(charged[2])
    assert adapter["completion_tokens"] == bills[2]["usage"]["completion_tokens"]
    with api.http(sign_in(api.url, some_key("another wallet"))) as http:
        assert http.get("/v1/usage", params=PERIOD).json()["data"] == []


@pytest.mark.parametrize(
    ("first", "last"),
    [("2026-05-02", "2026-05-01"), ("2020-01-01", "2026-01-01"), ("0001-01-01", "9999-12-31"), ("x", "y")],
)
def test_a_period_that_is_none_or_too_long_is_refused(api: Api, first: str, last: str) -> None:
    with api.http() as http:
        answer = http.get("/v1/usage", params={"first": first, "last": last})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "first")


def test_the_first_days_of_the_calendar_are_no_defect(api: Api) -> None:
    with api.http() as http:
        assert http.get("/v1/usage", params={"last": "0001-01-02"}).json()["data"] == []
