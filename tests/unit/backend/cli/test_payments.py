from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from backend.cli import payments
from backend.client import waiting
from backend.client.errors import ApiError
from backend.client.node import Mined
from backend.domain.errors import Conflict
from backend.domain.hashing import channel_id
from backend.domain.money import AMOUNT, UNIT
from tests.support.market import some_account, some_hash

PAYER, OPERATOR, COLLECTOR = some_account("payer"), some_account("operator"), some_account("Settlement")
TX = some_hash("transaction")


class Vault:
    """Fakes API client and wallet: the money has thawed after `patience` attempts."""

    account = PAYER

    def __init__(self, patience: int, error: str = "StillThawing") -> None:
        self.wallet = self
        self.sent: list[tuple[str, Any]] = []
        self._patience = patience
        self._error = error

    def address(self, contract: str) -> str:
        return some_account(contract)

    def get(self, _path: str) -> Any:
        names = ("balance", "thawing", "collected", "charged", "reserved", "available")
        whose = {"id": channel_id(PAYER, OPERATOR, COLLECTOR), "operator": OPERATOR, "collector": COLLECTOR}
        return {"data": [{**whose, **dict.fromkeys(names, AMOUNT.render(0)), "sessions": []}]}

    def post(self, path: str, body: Any = None) -> Any:
        if path == "/v1/withdrawals/prepare" and self._patience:
            self._patience -= 1
            args = {"thawedAt": 1_795_900_000}
            raise ApiError("refused", details={"error": self._error, "args": args})
        return body

    def send(self, asked: Any, _prepared: Any) -> Mined:
        self.sent.append((asked.function, asked.args.get("amount")))
        return Mined(TX, 1)


def actor_at(vault: Vault) -> Any:
    return SimpleNamespace(connect=lambda: nullcontext(vault))


def withdraw(vault: Vault, dollars: str | None, *, wait: bool) -> None:
    payments.withdraw.__wrapped__(dollars, wait=wait, actor=actor_at(vault))  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)


THAW, TAKE = ("thaw", 100_000_000_000), ("withdraw", None)


def test_withdraw_with_wait_withdraws_as_soon_as_the_money_has_thawed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    vault = Vault(patience=3)
    withdraw(vault, "0.1", wait=True)
    assert vault.sent == [THAW, TAKE]
    thawing, withdrawn = capsys.readouterr().out.splitlines()
    assert thawing.startswith("thawing 0.1 dollars; ")
    assert withdrawn == f"withdrawn in transaction {TX}"


def test_without_wait_money_starts_to_thaw_and_is_not_withdrawn() -> None:
    vault = Vault(patience=1)
    withdraw(vault, "0.1", wait=False)
    assert vault.sent == [THAW]
    with pytest.raises(payments.StillThawing, match=r"until 2026-11-28T21:06:40\+00:00; --wait"):
        withdraw(vault, None, wait=False)
    withdraw(vault, None, wait=False)
    assert vault.sent == [THAW, TAKE]


@pytest.mark.parametrize("amount", ["1e3", "0,1", "-1", "0.1234567890123", "nan", ""])
def test_an_amount_that_is_not_a_decimal_is_wrong_usage(amount: str) -> None:
    vault = Vault(patience=0)
    for command in (payments.withdraw, payments.deposit):
        with pytest.raises(typer.BadParameter, match=r"5\.00|0\.000000000001"):
            command.__wrapped__(amount, actor=actor_at(vault))  # type: ignore[attr-defined]
    assert vault.sent == []


def test_a_deposit_is_of_whole_units() -> None:
    with pytest.raises(typer.BadParameter, match=r"leave a remainder of 0\.0000005 dollars"):
        payments.deposit.__wrapped__("5.0000005", actor=actor_at(Vault(0)))  # type: ignore[attr-defined]


def test_waiting_fails_at_once_if_nothing_is_thawing() -> None:
    with pytest.raises(Conflict, match="nothing is thawing; `loraledger withdraw DOLLARS`"):
        withdraw(Vault(patience=1, error="NothingThawing"), None, wait=True)


def test_more_than_the_channel_holds_is_refused_in_dollars(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        args = {"channelId": "0x12", "balance": str(UNIT), "amount": str(5 * UNIT)}
        raise ApiError("refused", details={"error": "InsufficientBalance", "args": args})

    vault = Vault(patience=0)
    monkeypatch.setattr(vault, "send", refuse)
    with pytest.raises(Conflict, match=r"^the channel holds 0\.000001 dollars, less than 0\.000005 dollars$"):
        withdraw(vault, "0.000005", wait=False)


def test_another_refusal_of_the_vault_is_passed_on() -> None:
    with pytest.raises(ApiError):
        withdraw(Vault(patience=1, error="Paused"), None, wait=True)


class MovingWallet(Vault):
    """Signs every message, and has the relay answer what moved."""

    deployment = SimpleNamespace(chain_id=31337)

    def __init__(self) -> None:
        super().__init__(patience=0)
        self.signed: list[Any] = []

    def sign(self, asked: Any, _proposed: Any) -> str:
        self.signed.append(asked.fields)
        return "the signature"

    def post(self, path: str, body: Any = None) -> Any:
        if path == "/v1/moves/prepare":
            return {"move": body, "typed_data": {}}
        assert (path, body["signature"]) == ("/v1/moves/relay", "the signature")
        return {"transaction_id": 3, "amount": AMOUNT.render(1_500_000)}

    def wait_confirmed(self, queued: Any) -> None:
        assert queued["transaction_id"] == 3


@pytest.mark.parametrize(("dollars", "most"), [(None, 0), ("2.5", 2_500_000_000_000)])
def test_move_names_what_moved(capsys: pytest.CaptureFixture[str], dollars: str | None, most: int) -> None:
    wallet, following = MovingWallet(), some_account("next settlement")
    actor = SimpleNamespace(connect=lambda: nullcontext(wallet))
    payments.move.__wrapped__(dollars, collector=following, actor=actor)  # type: ignore[attr-defined]
    (fields,) = wallet.signed
    assert (fields["newCollector"], fields["maxAmount"]) == (following, most)
    assert capsys.readouterr().out == f"moved 0.0000015 dollars to the channel under {following}\n"
