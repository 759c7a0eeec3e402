from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from backend.cli import payments, vault
from backend.domain.channels import MAX_THAW_SECONDS
from backend.domain.hashing import channel_id
from backend.domain.ids import ZERO_ACCOUNT
from backend.domain.money import AMOUNT, UNIT
from tests.support.hostile_market import stated_channel
from tests.support.market import some_account, some_hash

PAYER, OPERATOR, COLLECTOR = some_account("payer"), some_account("operator"), some_account("Settlement")


@pytest.mark.parametrize("amount", ["1e3", "0,1", "-1", "0.1234567890123", "nan", ""])
def test_an_amount_that_is_not_a_decimal_is_wrong_usage(amount: str) -> None:
    for command in (vault.withdraw, payments.deposit):
        with pytest.raises(typer.BadParameter, match=r"5\.00|0\.000000000001"):
            command.__wrapped__(amount, actor=None)  # type: ignore[attr-defined]


def test_a_deposit_is_of_whole_units() -> None:
    with pytest.raises(typer.BadParameter, match=r"leave a remainder of 0\.0000005 dollars"):
        payments.deposit.__wrapped__("5.0000005", actor=None)  # type: ignore[attr-defined]


def test_balance_names_operator_and_session_keys_that_can_be_collected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, names = (1 << 33) - 3600, ("balance", "available", "thawing", "moving")
    monkeypatch.setattr(payments, "time", lambda: now)
    keys = [
        {
            "key": some_account(name),
            "cap": AMOUNT.render(UNIT),
            "expiry": expiry,
            "revoked_at": revoked_at,
            "is_revoked": revoked_at is not None,
            "is_custodial": name != "own",
        }
        for name, expiry, revoked_at in (
            ("valid", 1 << 33, None),
            ("own", 1 << 33, None),
            ("expired", now - 90_000, None),
            ("revoked", 1 << 33, now - 90_000),
            ("old", now - MAX_THAW_SECONDS, None),
            ("void", 1 << 33, now - MAX_THAW_SECONDS),
        )
    ]
    channel = {"id": "0x12", "operator": OPERATOR, "thawed_at": 0, "sessions": keys}
    listed = [channel | dict.fromkeys(names, AMOUNT.render(UNIT))]
    client = SimpleNamespace(list_all=lambda _path: listed)
    actor = SimpleNamespace(connect=lambda: nullcontext(client))
    payments.balance.__wrapped__(actor=actor)  # type: ignore[attr-defined]
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"channel 0x12 with operator {OPERATOR}: balance 0.000001 dollars, ")
    collected = "what it signs can be collected until 2242-04-{}+00:00 at the latest"
    valid, ended = collected.format("13T12:56:32"), collected.format("12T10:56:32")
    assert lines == [
        f"  session key {some_account(name)} ({holder}): up to 0.000001 dollars in all, {state}"
        for name, holder, state in (
            ("valid", "the gateway holds it", f"until 2242-03-16T12:56:32+00:00; {valid}"),
            ("own", "you hold it", f"until 2242-03-16T12:56:32+00:00; {valid}"),
            ("expired", "the gateway holds it", f"expired 2242-03-15T10:56:32+00:00; {ended}"),
            ("revoked", "the gateway holds it", f"revoked 2242-03-15T10:56:32+00:00; {ended}"),
        )
    ]


class MovingWallet:
    """Fakes API client and wallet: signs every message, and has the relay answer what moved."""

    account = PAYER
    deployment = SimpleNamespace(chain_id=31337)

    def __init__(self) -> None:
        self.wallet = self
        self.signed: list[Any] = []

    def address(self, contract: str) -> str:
        return some_account(contract)

    def get(self, _path: str) -> Any:
        whose = {"id": channel_id(PAYER, OPERATOR, COLLECTOR), "operator": OPERATOR, "collector": COLLECTOR}
        return {"data": [stated_channel()["data"][0] | whose]}

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


class DepositingWallet(MovingWallet):
    """Signs every deposit; the market then states a channel of five dollars that no key may spend."""

    def post(self, path: str, body: Any = None) -> Any:
        if path == "/v1/deposits/relay":
            return {"transaction_id": 3}
        assert (path, body) == ("/v1/deposits/prepare", {"amount": AMOUNT.render(5 * 10**12)})
        grant = {"key": ZERO_ACCOUNT, "cap": "0", "expiry": 0}
        relay = {"units": str(5 * 10**6), "grant": grant, "salt": some_hash("salt")}
        return {"relay": relay, "typed_data": {}}

    def get(self, path: str) -> Any:
        five, none = AMOUNT.render(5 * 10**12), AMOUNT.render(0)
        return super().get(path) if path == "/v1/channels" else {"balance": five, "available": none}


def test_a_deposit_without_a_session_is_spent_by_vouchers(capsys: pytest.CaptureFixture[str]) -> None:
    actor = SimpleNamespace(connect=lambda: nullcontext(DepositingWallet()), is_agreed=False)
    payments.deposit.__wrapped__("5", without_session=True, actor=actor)  # type: ignore[attr-defined]
    channel = channel_id(PAYER, OPERATOR, COLLECTOR)
    said = "holds 5 dollars, of which 0 dollars can be spent without a further voucher"
    assert capsys.readouterr().out == f"channel {channel}: {said}\n"
