from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from backend.cli import client, pay
from backend.cli.client import ApiRefused


class Vault:
    """A market and its wallet in one: money thaws until it was asked for `patience` times."""

    def __init__(self, patience: int, error: str = "StillThawing") -> None:
        self.wallet = self
        self.sent: list[str] = []
        self._patience = patience
        self._error = error

    def post(self, path: str, body: Any = None) -> str:
        if path == "/v1/withdrawals/prepare" and self._patience:
            self._patience -= 1
            raise ApiRefused("refused", details={"error": self._error})
        return f"{path} {body}"

    def send(self, prepared: str) -> dict[str, bytes]:
        self.sent.append(prepared)
        return {"transactionHash": bytes(32)}


@pytest.fixture
def open_vault(monkeypatch: pytest.MonkeyPatch) -> Any:
    def opened(vault: Vault) -> Vault:
        monkeypatch.setattr(pay, "open_market", lambda _user: nullcontext(vault))
        monkeypatch.setattr(client, "POLL_SECONDS", 0)
        return vault

    return opened


THAW = "/v1/withdrawals/thaw/prepare {'amount': '2000000000000'}"
TAKE = "/v1/withdrawals/prepare None"


def test_money_that_is_waited_for_is_taken_as_soon_as_it_has_thawed(
    open_vault: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    vault = open_vault(Vault(patience=3))
    pay.withdraw(2, wait=True, user=7)
    assert vault.sent == [THAW, TAKE]
    assert capsys.readouterr().out == f"2 dollars thaw\nwithdrawn, in transaction 0x{'00' * 32}\n"


def test_money_that_nobody_waits_for_thaws_and_stays(open_vault: Any) -> None:
    vault = open_vault(Vault(patience=1))
    pay.withdraw(2, wait=False, user=7)
    assert vault.sent == [THAW]
    with pytest.raises(ApiRefused):
        pay.withdraw(None, wait=False, user=7)
    pay.withdraw(None, wait=False, user=7)
    assert vault.sent == [THAW, TAKE]


def test_waiting_does_not_hide_that_there_is_nothing_to_wait_for(open_vault: Any) -> None:
    open_vault(Vault(patience=1, error="NothingThaws"))
    with pytest.raises(ApiRefused):
        pay.withdraw(None, wait=True, user=7)
