"""A hostile market proposes something else than what was asked for: each field in turn."""

from __future__ import annotations

import re
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.client import contributions, payments
from backend.client.comparison import SignatureRefused
from backend.client.errors import UNSIGNED, NotAMarket
from backend.client.signing import Statement, Wallet
from backend.domain.deployment import Deployment
from backend.domain.errors import Conflict, NotFound
from tests.support.hostile_market import (
    ADDRESSES,
    CHAIN,
    CHANNEL,
    KEY,
    UNITS,
    Market,
    bump,
    changed,
    leaves,
    stated_channel,
    with_changed_values,
)
from tests.support.market import some_hash
from tests.support.signed_answers import CONTRIBUTE, DEPOSIT, asks, deposit_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.client.signing import AskedMessage


ASKED = ("deposit", "deposit without a session", "grant", "move", "contribute")


def drop(container: Any, name: str | int) -> None:
    del container[name]


def add(container: Any, _name: str | int) -> None:
    if isinstance(container, dict):
        container["more"] = "1"
    else:
        container.append({"name": "more", "type": "uint256"})


def empty(container: Any, name: str | int) -> None:
    container[name] = None


def halve(container: Any, name: str | int) -> None:
    container[name] = 0.5


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("change", [bump, drop, add, empty, halve])
def test_every_other_field_of_a_message_is_refused(name: str, change: Callable[[Any, Any], None]) -> None:
    path, honest, ask, _ = asks()[name]
    chosen = asks()[name][3]
    for leaf in leaves(honest()):
        is_choice = leaf in chosen and (change is bump or leaf[0] == "relay" or "domain" in leaf)
        if is_choice or (leaf[0] == "relay" and change is add) or leaf[0] == "move":
            continue
        market = Market({"/v1/channels": stated_channel(), path: changed(honest(), leaf, change)})
        with pytest.raises((SignatureRefused, NotAMarket), match="nothing was signed"):
            ask(market)
        assert not market.has_signed(), (leaf, change)
        assert [posted for posted, _ in market.posted] == [path]


@pytest.mark.parametrize("name", ASKED)
def test_what_was_asked_for_is_signed_with_the_values_that_the_market_may_choose(name: str) -> None:
    path, honest, ask, chosen = asks()[name]
    for leaf in (None, *chosen):
        answer = honest() if leaf is None else changed(honest(), leaf, bump)
        market = Market({"/v1/channels": stated_channel(), path: answer})
        ask(market)
        [statement] = market.statements
        assert ("chain", f"eip155:{CHAIN}") in statement.terms
        assert "signature" in market.posted[-1][1]


@pytest.mark.parametrize("name", ASKED)
def test_answers_with_any_other_values_are_refused_or_signed_once(name: str) -> None:
    path, honest, ask, _ = asks()[name]
    outcomes = Counter[bool]()
    for seed in range(200):
        market = Market(with_changed_values({"/v1/channels": stated_channel(), path: honest()}, seed))
        said = ""
        try:
            ask(market)
        except (SignatureRefused, NotAMarket, Conflict) as error:
            said = str(error)
        assert not (market.has_signed() and UNSIGNED in said)
        outcomes[market.has_signed()] += 1
        assert len(market.statements) <= 1
    assert min(outcomes[True], outcomes[False]) > 0


@pytest.mark.parametrize("value", [float("nan"), "\ud800"])
def test_what_cannot_be_sent_back_is_not_signed(value: Any) -> None:
    answer = deposit_answer()
    answer["relay"]["more"] = value
    market = Market({"/v1/channels": stated_channel(), DEPOSIT: answer})
    with pytest.raises(NotAMarket, match=UNSIGNED):
        payments.deposit(market, UNITS)  # type: ignore[arg-type]
    assert not market.has_signed()


@pytest.mark.parametrize("answer", [{}, {"relay": {}}, deposit_answer() | {"typed_data": None}, {"relay": 7}])
def test_an_answer_of_another_form_is_refused(answer: Any) -> None:
    market = Market({"/v1/channels": stated_channel(), DEPOSIT: answer})
    with pytest.raises((Conflict, SignatureRefused, NotAMarket)):
        payments.deposit(market, UNITS)  # type: ignore[arg-type]
    assert not market.has_signed()
    unclear = {"data": [stated_channel()["data"][0] | {"balance": "5000000"}]}
    for channels in ({}, {"data": []}, {"data": [{}]}, {"data": [7]}, [], unclear):
        with pytest.raises(NotAMarket, match="malformed"):
            payments.deposit(Market({"/v1/channels": channels}), UNITS)  # type: ignore[arg-type]


def test_a_signature_that_is_valid_for_longer_than_a_day_is_refused() -> None:
    answer = deposit_answer()
    answer["typed_data"]["message"]["validBefore"] = str(int(time.time()) + 86_401)
    market = Market({"/v1/channels": stated_channel(), DEPOSIT: answer})
    with pytest.raises(SignatureRefused, match=r"message\.validBefore"):
        payments.deposit(market, UNITS)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["id", "operator", "collector"])
def test_a_channel_that_is_not_the_wallets_is_refused(field: str) -> None:
    stated = changed(stated_channel(), ("data", 0, field), bump)
    market = Market({"/v1/channels": stated, DEPOSIT: deposit_answer()})
    with pytest.raises(SignatureRefused, match="another channel"):
        payments.deposit(market, UNITS)  # type: ignore[arg-type]
    assert not market.posted


@pytest.mark.parametrize(
    ("asked", "read"), [("MIT", "CC0-1.0"), ("(MIT OR ISC) AND Zlib", "MIT OR (ISC AND Zlib)")]
)
def test_a_licence_that_was_not_stated_is_not_signed(asked: str, read: str) -> None:
    draft = {"id": "upload-1", "report": {"licence": read, "num_rows": 3}}
    market = Market({CONTRIBUTE: {}})
    with pytest.raises(SignatureRefused, match=re.escape(f"reads the licence {asked!r} as {read!r}")):
        contributions.submit(market, draft, datanet=7, licence=asked)  # type: ignore[arg-type]


def test_a_message_that_is_not_on_the_list_is_not_signed() -> None:
    permit = "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
    market = Market({})
    asked: AskedMessage = payments.AskedMessage(Statement("Permit", ()), permit, {})
    with pytest.raises(SignatureRefused, match="not a message that this wallet signs"):
        market.wallet.sign(asked)


def test_a_deployment_without_the_contract_is_named() -> None:
    wallet = Wallet(KEY, Deployment(CHAIN, 1, some_hash("block"), {}), pytest.fail)
    with pytest.raises(NotFound, match="the deployment has no contract PaymentVault"):
        wallet.sign(payments.asked_voucher(CHANNEL, 1))


def test_what_the_owner_declines_is_not_signed() -> None:
    def decline(_: Statement) -> None:
        raise InterruptedError

    locked: Any = SimpleNamespace(account=KEY.account, unlock=pytest.fail)
    wallet = Wallet(locked, Deployment(CHAIN, 1, some_hash("block"), ADDRESSES), decline)
    with pytest.raises(InterruptedError):
        wallet.sign(payments.asked_voucher(CHANNEL, 1))
