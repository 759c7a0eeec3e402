from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from backend.cli import api_client, payments
from backend.cli.api_client import ApiError


class Vault:
    """Fakes API client and wallet: the money has thawed after `patience` attempts."""

    def __init__(self, patience: int, error: str = "StillThawing") -> None:
        self.wallet = self
        self.sent: list[str] = []
        self._patience = patience
        self._error = error

    def post(self, path: str, body: Any = None) -> str:
        if path == "/v1/withdrawals/prepare" and self._patience:
            self._patience -= 1
            raise ApiError("refused", details={"error": self._error})
        return f"{path} {body}"

    def send(self, prepared: str) -> dict[str, bytes]:
        self.sent.append(prepared)
        return {"transactionHash": bytes(32)}


@pytest.fixture
def open_vault(monkeypatch: pytest.MonkeyPatch) -> Any:
    def opened(vault: Vault) -> Vault:
        monkeypatch.setattr(payments, "open_client", lambda _user: nullcontext(vault))
        monkeypatch.setattr(api_client, "POLL_SECONDS", 0)
        return vault

    return opened


THAW = "/v1/withdrawals/thaw/prepare {'amount': '2000000000000'}"
TAKE = "/v1/withdrawals/prepare None"


def test_withdraw_with_wait_withdraws_as_soon_as_the_money_has_thawed(
    open_vault: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    vault = open_vault(Vault(patience=3))
    payments.withdraw(2, wait=True, user=7)
    assert vault.sent == [THAW, TAKE]
    assert capsys.readouterr().out == f"2 dollars are thawing\nwithdrawn in transaction 0x{'00' * 32}\n"


def test_without_wait_money_starts_to_thaw_and_is_not_withdrawn(open_vault: Any) -> None:
    vault = open_vault(Vault(patience=1))
    payments.withdraw(2, wait=False, user=7)
    assert vault.sent == [THAW]
    with pytest.raises(ApiError):
        payments.withdraw(None, wait=False, user=7)
    payments.withdraw(None, wait=False, user=7)
    assert vault.sent == [THAW, TAKE]


def test_waiting_fails_at_once_if_nothing_is_thawing(open_vault: Any) -> None:
    open_vault(Vault(patience=1, error="NothingThawing"))
    with pytest.raises(ApiError):
        payments.withdraw(None, wait=True, user=7)
