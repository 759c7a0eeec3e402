"""CAIP-10 account ids in requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted_installation import CHAIN_ID

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api


def asked(api: Api, chain_id: int) -> dict[str, Any]:
    """An answer of each way to name an account: body, query, path, and a channel by its operator."""
    payer, operator = api.installation.payer.account, api.installation.operator
    names = {account: f"eip155:{chain_id}:{account}" for account in (payer, operator)}
    with api.http(api.session) as http:
        return {
            "account": http.post("/v1/auth/challenges", json={"account": names[payer]}),
            "query": http.get("/v1/earnings", params={"account": names[payer]}),
            "operator": http.get(f"/v1/operators/{names[operator]}/batches"),
            "channel": http.get(f"/v1/channels/{names[operator]}"),
        }


def test_an_account_may_be_named_with_its_chain(api: Api) -> None:
    answers = asked(api, CHAIN_ID)
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "account": 201,
        "query": 200,
        "operator": 200,
        "channel": 200,
    }
    assert answers["channel"].json()["id"] == api.installation.channel


@pytest.mark.parametrize("chain_id", [1, CHAIN_ID + 1])
def test_one_of_another_chain_is_refused_and_both_are_named(api: Api, chain_id: int) -> None:
    for answer in asked(api, chain_id).values():
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert f"of chain eip155:{chain_id}; this is eip155:{CHAIN_ID}" in error["message"]
