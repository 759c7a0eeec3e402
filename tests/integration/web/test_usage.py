"""What the payer's page says of accounts that have used much, or granted for ever."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from typing import TYPE_CHECKING

from backend.domain.hashing import receipt_id
from backend.domain.ids import VersionId
from backend.domain.money import PPM
from backend.domain.serving import DayUsage, Waiver
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.receipts.receipts import Receipts
from tests.integration.web.test_sign_in import signed_in
from tests.support.market import some_hash

if TYPE_CHECKING:
    import httpx
    import pytest

    from backend.domain.receipt import Receipt
    from tests.integration.api.conftest import Api


def usage_of(model: str, spend: int) -> DayUsage:
    versions = ((VersionId(some_hash(model)), PPM),)
    return DayUsage(datetime.now(UTC).date(), some_hash(f"slices of {model}"), versions, 1, 1, 1, spend)


def test_usage_names_the_models_that_cost_most(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Receipts, "usage", lambda *_: [usage_of(f"model {n}", n) for n in range(60)])
    with signed_in(api) as client:
        shown = client.get("/account").text
    assert "The 50 of 60 models that cost most." in shown
    assert some_hash("model 59") in shown
    assert some_hash("model 9") not in shown


def test_a_session_key_that_expires_after_the_year_9999_is_shown(api: Api) -> None:
    view, channel = api.installation.view, api.installation.channel
    view.granted[channel] = [replace(grant, expiry=(1 << 64) - 1) for grant in view.granted[channel]]
    with signed_in(api) as client:
        shown = client.get("/account")
    assert shown.status_code == 200
    assert "after the year 9999" in shown.text


def proposed_voucher(client: httpx.Client) -> str:
    token = re.search(r'data-form-token="([^"]+)"', client.get("/account").text)
    assert token is not None
    answer = client.post("/account/voucher", data={"more": "1"}, headers={"x-form-token": token[1]})
    return unescape(answer.text)


def answers(api: Api, count: int) -> list[Receipt]:
    """Receipts of new answers, the first one first."""
    for _ in range(count):
        api.openai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    with api.installation.read() as tx:
        return [one.receipt for one in tx.receipts.unsettled(api.installation.channel, 0, count)]


def test_a_voucher_waives_what_was_convicted_and_what_an_earlier_one_waived(api: Api) -> None:
    channel, payer = api.installation.channel, api.installation.payer
    first, second = answers(api, 2)
    api.installation.quarantined |= {receipt_id(first), receipt_id(second)}
    with signed_in(api) as client:
        assert "stay unpaid" not in proposed_voucher(client)
        with api.installation.begin() as tx:
            tx.channels.demand_waivers({channel: Waiver(0, first.cumulative)})
        shown = proposed_voucher(client)
        assert f"from: {first.cumulative}" in shown
        assert "convicted answers up to" in shown
        signed = SignedVoucher(Voucher(channel, second.cumulative, second.cumulative), "0x")
        with api.installation.begin() as tx:
            tx.channels.put_voucher(ClientVoucher(signed, payer.account))
        assert f'"waived_until": "{second.cumulative}"' in proposed_voucher(client)


def test_a_wallet_is_not_asked_for_a_voucher_that_the_market_would_refuse(api: Api) -> None:
    channel, channels = api.installation.channel, api.installation.view.channels
    first, convicted = answers(api, 2)
    api.installation.quarantined.add(receipt_id(convicted))
    with api.installation.begin() as tx:
        tx.channels.demand_waivers({channel: Waiver(first.cumulative, convicted.cumulative)})
    with signed_in(api) as client:
        refused = proposed_voucher(client)
        assert "once those before it are final" in refused
        assert "waived_until" not in refused
        channels[channel] = replace(channels[channel], collected=first.cumulative)
        assert f'"waived_until": "{convicted.cumulative}"' in proposed_voucher(client)
