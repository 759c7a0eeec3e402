"""The command line's client against a real server: commands may outlast their session token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.cli.api_client import ApiClient, ApiError
from backend.cli.wallet import Wallet
from backend.domain.hashing import keccak

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.api.conftest import Api

DAY = 86_400


@pytest.fixture
def market(api: Api) -> Iterator[ApiClient]:
    wallet = Wallet("0x" + keccak(b"payer").hex(), "http://127.0.0.1:1")
    with ApiClient(api.url, wallet).sign_in() as found:
        yield found


def test_a_session_is_refreshed_without_a_word(api: Api, market: ApiClient) -> None:
    for _ in range(3):
        api.installation.clock.pass_seconds(3600)
        assert market.get("/v1/auth/me")["account"] == market.wallet.account


def test_a_session_that_is_over_is_followed_by_another(api: Api, market: ApiClient) -> None:
    api.installation.clock.pass_seconds(31 * DAY)
    assert market.post("/v1/withdrawals/prepare")["decoded"]["function"] == "withdraw"


def test_rows_that_are_read_once_are_not_sent_again(api: Api, market: ApiClient) -> None:
    api.installation.clock.pass_seconds(3600)
    with pytest.raises(ApiError, match="refresh it or sign in again"):
        market.request("POST", "/v1/contributions", content=iter([b"rows"]))
