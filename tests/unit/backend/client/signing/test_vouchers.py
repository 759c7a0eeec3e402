"""Vouchers that a market asks for: for which vault, and for how much in all."""

from __future__ import annotations

from typing import Any

import pytest

from backend.client import payments
from backend.client.comparison import SignatureRefused
from backend.client.errors import ApiError
from backend.client.signing import Wallet
from backend.domain.money import AMOUNT
from tests.support.hostile_market import CHANNEL, KEY, Market, stated_channel


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
