"""Session keys that a market proposes, and those that it says it holds."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from backend.client import payments
from backend.client.comparison import SignatureRefused
from backend.domain.channels import MAX_THAW_SECONDS
from backend.domain.hashing import deposit_nonce
from backend.domain.money import AMOUNT, UNIT
from tests.support.hostile_market import CHANNEL, UNITS, Market, stated_channel
from tests.support.market import some_account
from tests.support.signed_answers import DEPOSIT, deposit_answer


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
