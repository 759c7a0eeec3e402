"""A hostile market proposes something else than what was asked for: each field in turn."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.client import contributions, payments
from backend.client.comparison import SignatureRefused
from backend.client.errors import UNSIGNED, ApiError, NotAMarket
from backend.client.signing import Statement, Wallet
from backend.domain.channels import MAX_THAW_SECONDS
from backend.domain.deployment import Deployment
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.hashing import deposit_nonce
from backend.domain.money import AMOUNT, UNIT
from backend.domain.sign_in_message import STATEMENT, SignInMessage
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
from tests.support.market import some_account, some_hash
from tests.support.signed_answers import CONTRIBUTE, DEPOSIT, asks, deposit_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.client.signing import AskedMessage

MARKET = "https://market.example"
ASKED = ("deposit", "deposit without a session", "grant", "move", "contribute")


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


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


def test_a_session_with_a_higher_cap_is_refused_although_all_agrees_with_it() -> None:
    answer = deposit_answer()
    grant = answer["relay"]["grant"] | {"cap": str(2**127)}
    nonce = deposit_nonce(CHANNEL, grant["key"], 2**127, grant["expiry"], answer["relay"]["salt"])
    answer["relay"]["grant"], answer["typed_data"]["message"]["nonce"] = grant, nonce
    market = Market({"/v1/channels": stated_channel(), DEPOSIT: answer})
    with pytest.raises(SignatureRefused, match="another deposit or session"):
        payments.deposit(market, UNITS)  # type: ignore[arg-type]
    assert not market.has_signed()


def test_a_session_key_that_was_not_asked_for_is_refused_although_all_agrees_with_it() -> None:
    market = Market({"/v1/channels": stated_channel(), DEPOSIT: deposit_answer(some_account("session"), 0)})
    with pytest.raises(SignatureRefused, match="another deposit or session"):
        payments.deposit(market, UNITS, with_session=False)  # type: ignore[arg-type]
    assert not market.has_signed()


def test_a_deposit_without_a_session_says_so() -> None:
    market = Market({"/v1/channels": stated_channel(), DEPOSIT: deposit_answer(cap=0)})
    payments.deposit(market, UNITS, with_session=False)  # type: ignore[arg-type]
    assert market.posted[0] == (DEPOSIT, {"amount": AMOUNT.render(UNITS * UNIT)})
    assert ("session key", "none") in market.statements[0].terms


NOW = int(time.time())
REVOKED_NOW = {"is_revoked": True, "revoked_at": NOW}


@pytest.mark.parametrize(
    ("changes", "is_valid", "is_collectable"),
    [
        ({}, True, True),
        ({"is_custodial": False}, False, False),
        (REVOKED_NOW, False, True),
        ({"expiry": NOW - 25 * 3600}, False, True),
        ({"expiry": NOW - MAX_THAW_SECONDS - 1}, False, False),
        (REVOKED_NOW | {"revoked_at": NOW - MAX_THAW_SECONDS - 1}, False, False),
        (REVOKED_NOW | {"expiry": NOW - MAX_THAW_SECONDS - 1}, False, False),
    ],
)
def test_a_session_key_of_the_market_is_collectable_for_a_thaw_after_its_end(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], is_valid: bool, is_collectable: bool
) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))
    stated = stated_channel()
    valid = {"expiry": NOW + 3600, "is_custodial": True, "is_revoked": False, "revoked_at": None}
    stated["data"][0]["sessions"] = [valid | {"cap": AMOUNT.render(5)} | changes]
    channel = payments.own_channel(Market({"/v1/channels": stated}))  # type: ignore[arg-type]
    assert (channel.held_cap, channel.collectable_cap) == (5 * is_valid, 5 * is_collectable)
    assert channel.held_expiry == (valid["expiry"] if is_valid else 0)


DAY, YEAR = payments.SESSION_SECONDS, payments.MAX_SESSION_SECONDS


@pytest.mark.parametrize(
    ("days", "longest", "is_granted"),
    [(7, YEAR, True), (365, YEAR, True), (400, YEAR, False), (1, DAY, True), (7, DAY, False)],
)
def test_a_session_key_that_is_held_for_longer_is_granted_as_long_again(
    days: int, longest: int, *, is_granted: bool
) -> None:
    """The vault never lowers an expiry. But the market alone says how long it holds a key."""
    expiry = int(time.time()) + days * DAY
    stated = stated_channel()
    held = {"expiry": expiry, "cap": AMOUNT.render(0), "is_custodial": True, "is_revoked": False}
    stated["data"][0]["sessions"] = [held | {"revoked_at": None}]
    market = Market({"/v1/channels": stated, DEPOSIT: deposit_answer(expiry=expiry)})
    if is_granted:
        payments.deposit(market, UNITS, longest_session=longest)  # type: ignore[arg-type]
        assert market.posted[0][1]["session"]["expiry"] >= expiry
        until = datetime.fromtimestamp(expiry, UTC).isoformat(timespec="minutes")
        assert any(until in words for _, words in market.statements[0].terms)  # the payer sees the expiry
    else:
        with pytest.raises(SignatureRefused, match="says that it holds a session key until"):
            payments.deposit(market, UNITS, longest_session=longest)  # type: ignore[arg-type]
        assert not market.posted
    assert market.has_signed() == is_granted


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


def test_a_voucher_is_for_the_pinned_vault_whatever_the_market_says() -> None:
    market: Any = Market({"/v1/channels": stated_channel()})
    payments.sign_voucher(market, payments.own_channel(market), 340)
    [(path, body)] = market.posted
    assert path == f"/v1/channels/{CHANNEL}/vouchers"
    asked = payments.asked_voucher(CHANNEL, 340)
    assert body["signature"] == Market({}).wallet.sign(asked)
    assert market.statements[0].terms[0] == ("amount", "up to 0.00000000034 dollars more")


def test_a_market_that_overstates_what_was_spent_does_not_hide_the_limit() -> None:
    stated = stated_channel()
    stated["data"][0] |= {"collected": AMOUNT.render(10**18), "charged": AMOUNT.render(10**18)}
    market: Any = Market({"/v1/channels": stated})
    payments.sign_voucher(market, payments.own_channel(market), 10**18 + 10**12)
    limit = ("limit", "1,000,001 dollars in all since the channel was opened")
    assert limit in market.statements[0].terms


def refusal(required: int, code: str = "insufficient_authorisation") -> ApiError:
    return ApiError("402", details={"status": 402, "code": code, "required": AMOUNT.render(required)})


def test_the_vouchers_of_a_request_add_no_more_than_was_allowed_in_all() -> None:
    """The market raises what it states as spent by each voucher."""
    market: Any = Market({"/v1/channels": stated_channel()})
    [channel] = market.answers["/v1/channels"]["data"]
    said: list[int] = []

    def send() -> Any:
        channel["charged"] = AMOUNT.render(5000 + 100 * len(said))
        raise refusal(100)

    with pytest.raises(SignatureRefused, match=r"over 0\.0000000002 dollars, more than 0\.0000000001 d"):
        payments.send_paid(market, send, most=100, say=said.append)
    assert said == [5100]
    assert [body["max_cumulative"] for _, body in market.posted] == ["5100"]


def test_a_voucher_waives_what_was_convicted_and_says_so() -> None:
    """It is as high as the one that it replaces."""
    stated = stated_channel()
    amounts = {"collected": 30, "charged": 100, "signed": 340, "waived_until": 100}
    stated["data"][0] |= {name: AMOUNT.render(amount) for name, amount in amounts.items()}
    market: Any = Market({"/v1/channels": stated})
    answers = [refusal(30, "waiver_required"), "answer"]

    def send() -> Any:
        if isinstance(answer := answers.pop(0), ApiError):
            raise answer
        return answer

    assert payments.send_paid(market, send, most=240) == "answer"
    [(_, body)] = market.posted
    assert (body["waived_until"], body["max_cumulative"]) == ("100", "340")
    asked = payments.asked_voucher(CHANNEL, 340, waived_until=100)
    assert body["signature"] == Market({}).wallet.sign(asked)
    waived = "convicted answers up to 0.0000000001 dollars in all since the channel was opened"
    assert ("waived", f"{waived}; they stay unpaid") in market.statements[0].terms


def test_a_waiver_that_is_settled_is_not_shown() -> None:
    stated = stated_channel()
    stated["data"][0] |= {name: AMOUNT.render(100) for name in ("collected", "charged", "waived_until")}
    market: Any = Market({"/v1/channels": stated})
    payments.sign_voucher(market, payments.own_channel(market), 340)
    assert market.posted[0][1]["waived_until"] == "100"
    assert "waived" not in dict(market.statements[0].terms)


class BusyMarket(Market):
    """Takes no voucher, because another command of the wallet has stored as high a one."""

    def post(self, path: str, body: Any = None) -> Any:
        super().post(path, body)
        raise ApiError("409: already stored", details={"status": 409, "code": "conflict"})


@pytest.mark.parametrize("is_signed", [False, True])
def test_another_commands_voucher_that_covers_the_request_is_used(is_signed: bool) -> None:
    """It is stored before this one would be signed, or after."""
    market: Any = BusyMarket({"/v1/channels": stated_channel()})
    [channel] = market.answers["/v1/channels"]["data"]
    market.wallet = Wallet(KEY, market.wallet.deployment, lambda _: channel.update(cap=AMOUNT.render(100)))
    num_sent = 0

    def send() -> Any:
        nonlocal num_sent
        num_sent += 1
        if num_sent > 1:
            return "answer"
        channel["cap"] = AMOUNT.render(99 if is_signed else 100)
        raise refusal(100)

    assert payments.send_paid(market, send, most=100) == "answer"
    assert len(market.posted) == is_signed


def test_a_refused_voucher_that_no_other_covers_is_an_error() -> None:
    market: Any = BusyMarket({"/v1/channels": stated_channel()})
    with pytest.raises(ApiError, match="already stored"):
        payments.sign_voucher(market, payments.own_channel(market), 100)


def test_a_voucher_over_more_than_was_allowed_is_refused() -> None:
    market = Market({"/v1/channels": stated_channel()})
    answers = [refusal(341), refusal(341), None, "job"]

    def post(path: str, _body: Any) -> Any:
        market.posted.append((path, _body))
        if isinstance(answer := answers.pop(0), ApiError):
            raise answer
        return answer

    market.post = post  # type: ignore[method-assign]
    client: Any = market

    def send() -> Any:
        return client.post("/v1/jobs", {})

    with pytest.raises(SignatureRefused, match=r"over 0\.000000000341 dollars, more than 0\.0+34 d"):
        payments.send_paid(client, send, most=340)
    assert not market.has_signed()
    assert payments.send_paid(client, send, most=341) == "job"


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


# Sign-in


def sign_in_message(**changes: Any) -> str:
    from datetime import UTC, datetime

    fields: dict[str, Any] = {
        "domain": "market.example",
        "account": KEY.account,
        "uri": MARKET,
        "chain_id": CHAIN,
        "nonce": "12345678",
        "issued_at": datetime(2026, 1, 1, tzinfo=UTC),
        "statement": STATEMENT,
    }
    return SignInMessage(**fields | changes).text()


def test_a_sign_in_names_this_market_this_chain_and_nothing_else() -> None:
    market = Market({})
    assert market.wallet.sign_in(sign_in_message(), MARKET).startswith("0x")
    assert market.statements[0].action == "Sign in"
    for change in (
        {"domain": "other.example"},
        {"uri": "https://other.example"},
        {"uri": f"{MARKET}/path"},
        {"account": some_account("other")},
        {"chain_id": 1},
        {"statement": "I give everything to the market."},
        {"statement": None},
    ):
        with pytest.raises(SignatureRefused):
            market.wallet.sign_in(sign_in_message(**change), MARKET)
    for more in ("\nRequest ID: 7", "\nResources:\n- urn:recap:everything"):
        with pytest.raises(SignatureRefused, match="says something else"):
            market.wallet.sign_in(sign_in_message() + more, MARKET)
    with pytest.raises(InvalidInput):
        market.wallet.sign_in("Give everything to the market.", MARKET)
    assert len(market.statements) == 1
