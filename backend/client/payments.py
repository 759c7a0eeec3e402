"""A payer's calls of the market: channels, deposits, vouchers, session keys and moves. Amounts are in
micro-units.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backend.client.comparison import NONCE, SignatureRefused, deadline
from backend.client.errors import UNSIGNED, ApiError, reading_answer, sent_back
from backend.client.signing import AskedMessage, Statement
from backend.client.vault import VAULT
from backend.domain.channels import MAX_THAW_SECONDS
from backend.domain.errors import Conflict
from backend.domain.hashing import (
    AUTHORIZATION_TYPE,
    GRANT_TYPE,
    MOVE_TYPE,
    VOUCHER_TYPE,
    channel_id,
    deposit_nonce,
)
from backend.domain.ids import ZERO_ACCOUNT, Account, ChannelId, Hash32
from backend.domain.money import AMOUNT, UNIT, in_dollars

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.client.api import ApiClient

SESSION_SECONDS = 24 * 3600
MAX_SESSION_SECONDS = 366 * SESSION_SECONDS
"""The pages offer a year."""
CHANNEL_AMOUNTS = (
    *("balance", "thawing", "available"),
    *("collected", "charged", "reserved", "cap", "signed", "waived_until"),
)
"""Amounts of a channel in the API's answer, all of which `Channel` has."""
NEEDS_VOUCHER = frozenset({"insufficient_authorisation", "waiver_required"})
MAX_TRIES = 4
"""Tries of one request: its least cost is checked first, then its most, and concurrent requests may spend the
voucher that was signed for it.
"""
SINCE_OPENED = "in all since the channel was opened"


@dataclass(frozen=True, slots=True)
class Channel:
    """The wallet's channel towards the market's operator. Balances are as the market states them."""

    id: ChannelId
    operator: Account
    collector: Account
    balance: int
    thawing: int
    collected: int
    charged: int
    reserved: int
    cap: int
    """Highest cumulative that a voucher or session key authorises."""
    signed: int
    """Cumulative of the wallet's own voucher."""
    waived_until: int
    """Cumulative up to which a new voucher waives: convicted answers, and what the wallet's own waives."""
    available: int
    held_cap: int
    """Highest cap of the session keys that the market holds and that are neither expired nor revoked."""
    held_expiry: int
    """Their latest expiry, unix seconds. The vault lowers neither."""
    collectable_cap: int
    """Highest cap of the session keys that the market holds and whose vouchers may still be collected."""

    @property
    def funded(self) -> int:
        """Cumulative that the balance covers."""
        return self.collected + self.balance - self.thawing

    @property
    def spent(self) -> int:
        """Cumulative that is charged or reserved."""
        return self.charged + self.reserved


@reading_answer(UNSIGNED)
def own_channel(client: ApiClient) -> Channel:
    """The channel's id is computed here. Errors: `SignatureRefused` if the market names another one, or
    another collector than the pinned `Settlement`.
    """
    stated = client.get("/v1/channels")["data"][0]
    operator, collector = Account(stated["operator"]), client.wallet.address("Settlement")
    computed = channel_id(client.wallet.account, operator, collector)
    if (stated["id"], stated["collector"]) != (computed, collector):
        raise SignatureRefused(
            "the market names another channel than the wallet's with its operator in the pinned deployment; "
            "nothing was signed",
            details={"channel": stated["id"], "computed": computed},
        )
    now = time.time()
    held = [(AMOUNT.read(one["cap"]), one) for one in stated["sessions"] if one["is_custodial"]]
    valid = [(cap, int(one["expiry"])) for cap, one in held if not one["is_revoked"] and one["expiry"] > now]
    collectable = (cap for cap, one in held if collectable_until(one) > now)
    return Channel(
        id=computed,
        operator=operator,
        collector=collector,
        held_cap=max((cap for cap, _ in valid), default=0),
        held_expiry=max((expiry for _, expiry in valid), default=0),
        collectable_cap=max(collectable, default=0),
        **{name: AMOUNT.read(stated[name]) for name in CHANNEL_AMOUNTS},
    )


def collectable_until(session: Mapping[str, Any]) -> int:
    """Unix seconds until which vouchers of a session key, as the market states it, can be collected at most.
    They can be for the vault's thaw after expiry or revocation, because a voucher has no time. No vault thaws
    longer than `MAX_THAW_SECONDS`.
    """
    expiry, revoked_at = session["expiry"], session["revoked_at"]
    return MAX_THAW_SECONDS + int(expiry if revoked_at is None else min(expiry, revoked_at))


def deposit(
    client: ApiClient, units: int, *, with_session: bool = True, longest_session: int = MAX_SESSION_SECONDS
) -> ChannelId:
    """Deposit token units without gas: the wallet signs, the operator sends. `with_session`: the market gets
    a session key for a day and for what the channel then holds, or for longer and for more if the one that it
    holds has been granted that. Returns the channel's id once the deposit is confirmed.

    Errors: `SignatureRefused` if the market says that it holds a session key for more than `longest_session`
    seconds, of which there is only its word; `Conflict` if the payment token takes no deposits by signature.
    """
    channel = own_channel(client)
    body: dict[str, Any] = {"amount": AMOUNT.render(units * UNIT)}
    cap = expiry = 0
    if with_session:
        cap = max(channel.funded + units * UNIT, channel.held_cap)
        now = int(time.time())
        if channel.held_expiry > now + longest_session:
            raise SignatureRefused(
                f"the market says that it holds a session key until {_minute(channel.held_expiry)}, and the "
                "deposit would grant it until then again; nothing was signed. Without --yes you are asked "
                "about up to a year; with --no-session a deposit leaves the key as it is"
            )
        expiry = max(now + SESSION_SECONDS, channel.held_expiry)
        body["session"] = {"expiry": expiry, "cap": AMOUNT.render(cap)}
    prepared = client.post("/v1/deposits/prepare", body)
    with reading_answer(UNSIGNED):
        relay, typed_data = sent_back(prepared.get("relay")), prepared.get("typed_data")
    if relay is None:
        raise Conflict(
            "the payment token does not support deposits by signature: send the transactions that "
            "POST /v1/deposits/prepare returns"
        )
    asked = _asked_deposit(client, channel, units, relay, cap, expiry)
    signature = client.wallet.sign(asked, typed_data)
    queued = client.post("/v1/deposits/relay", {"relay": relay, "signature": signature})
    client.wait_confirmed(queued)
    return channel.id


@reading_answer(UNSIGNED)
def _asked_deposit(
    client: ApiClient, channel: Channel, units: int, relay: Mapping[str, Any], cap: int, expiry: int
) -> AskedMessage:
    """The nonce binds channel and session grant, so it is computed from what was asked for. A `cap` of 0 asks
    for no session.
    """
    grant = relay["grant"]
    stated = tuple(int(str(value)) for value in (relay["units"], grant["cap"], grant["expiry"]))
    key = Account(grant["key"])
    if stated != (units, cap, expiry) or (key == ZERO_ACCOUNT) != (cap == 0):
        raise SignatureRefused(
            "the market prepared another deposit or session than was asked for; nothing was signed",
            details={"units": stated[0], "cap": stated[1], "expiry": stated[2]},
        )
    fields = {
        "from": client.wallet.account,
        "to": client.wallet.address(VAULT),
        "value": units,
        "validAfter": 0,
        "validBefore": deadline(),
        "nonce": deposit_nonce(channel.id, key, cap, expiry, Hash32(relay["salt"])),
    }
    terms = (
        ("amount", in_dollars(units * UNIT)),
        ("to", f"your channel {channel.id} with operator {channel.operator}"),
        *(_session_terms(key, cap, expiry) if cap else (("session key", "none"),)),
    )
    return AskedMessage(Statement("Deposit", terms), AUTHORIZATION_TYPE, fields)


def grant_session(client: ApiClient, channel: Channel, key: Account, cap: int, expiry: int) -> None:
    """Let a session key sign vouchers up to the cumulative `cap`; returns once the market accepts them."""
    terms = {"key": key, "cap": AMOUNT.render(cap), "expiry": expiry}
    prepared = client.post("/v1/sessions/prepare", terms)
    with reading_answer(UNSIGNED):
        typed_data = prepared["typed_data"]
        nonce = sent_back(typed_data["message"]["nonce"])
    fields = {"channelId": channel.id, "key": key, "cap": cap, "expiry": expiry, "nonce": NONCE}
    words = (
        ("channel", f"{channel.id} with operator {channel.operator}"),
        *_session_terms(key, cap, expiry),
    )
    asked = AskedMessage(Statement("Grant a session key", words), GRANT_TYPE, fields)
    signature = client.wallet.sign(asked, typed_data)
    relayed = {"grant": {**terms, "cap": str(cap)}, "nonce": nonce, "signature": signature}
    client.wait_confirmed(client.post("/v1/sessions/relay", relayed))


def _session_terms(key: Account, cap: int, expiry: int) -> tuple[tuple[str, str], ...]:
    """In absolute values: what the channel has spent so far is only the market's word."""
    spend = f"{in_dollars(cap)} {SINCE_OPENED}"
    return (("session key", key), ("may spend", spend), ("until", _minute(expiry)))


def _minute(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="minutes")


def send_paid(
    client: ApiClient,
    send: Callable[[], Any],
    *,
    most: int | None = None,
    say: Callable[[int], object] = lambda _: None,
) -> Any:
    """Send a request that is charged for. If only authorisation is missing, the wallet signs a voucher for
    the amount that the market requires, `say` is called with its cumulative, and the request is sent again.

    `most` limits what all vouchers of the request add to what the channel had spent before the first of them,
    which is the market's word. Errors: `SignatureRefused` if a voucher would add more.
    """
    base = None
    for _ in range(MAX_TRIES):
        try:
            return send()
        except ApiError as error:
            if error.details["code"] not in NEEDS_VOUCHER:
                raise
            with reading_answer():
                required = AMOUNT.read(error.details["required"])
        channel = own_channel(client)
        if channel.cap >= channel.spent + required:
            continue  # a voucher for a concurrent request covers this one too
        base = channel.spent if base is None else base
        cumulative = max(channel.spent + required, channel.signed)
        added = cumulative - base
        if most is not None and added > most:
            raise SignatureRefused(
                f"the market asks for a voucher over {in_dollars(added)}, more than {in_dollars(most)} "
                "(--max-cost), which is not signed"
            )
        sign_voucher(client, channel, cumulative)
        say(cumulative)
    return send()


def sign_voucher(client: ApiClient, channel: Channel, cumulative: int) -> None:
    """Authorise charges up to the cumulative, and waive what the market says was convicted, which is in the
    payer's favour.
    """
    terms = [
        ("amount", f"up to {in_dollars(cumulative - channel.spent)} more"),
        ("limit", f"{in_dollars(cumulative)} {SINCE_OPENED}"),
        ("to", f"operator {channel.operator}"),
        ("channel", channel.id),
    ]
    waived_until = channel.waived_until
    if waived_until > channel.collected:
        waived = f"convicted answers up to {in_dollars(waived_until)} {SINCE_OPENED}; they stay unpaid"
        terms.append(("waived", waived))
    signature = client.wallet.sign(asked_voucher(channel.id, cumulative, tuple(terms), waived_until))
    body = {
        "waived_until": str(waived_until),
        "max_cumulative": str(cumulative),
        "signature": signature,
    }
    try:
        client.post(f"/v1/channels/{channel.id}/vouchers", body)
    except ApiError:
        if own_channel(client).cap < cumulative:
            raise
        # a concurrent request's voucher, stored since, covers this one too


def asked_voucher(
    channel: ChannelId, cumulative: int, terms: tuple[tuple[str, str], ...] = (), waived_until: int = 0
) -> AskedMessage:
    fields = {"channelId": channel, "from": waived_until, "maxCumulative": cumulative}
    return AskedMessage(Statement("Authorise a payment", terms), VOUCHER_TYPE, fields)


def move(client: ApiClient, new_collector: Account, most: int | None = None) -> int:
    """Have the operator move at most `most` micro-units (default: the whole balance) to the wallet's channel
    under another collector. Returns the amount once it has moved.
    """
    channel = own_channel(client)
    limit = channel.balance if most is None else most
    terms = (
        ("amount", f"at most {in_dollars(limit)}"),
        ("from", f"channel {channel.id} with operator {channel.operator}"),
        ("to", f"your channel with this operator under the collector {new_collector}"),
    )
    fields = {
        "payer": client.wallet.account,
        "operator": channel.operator,
        "collector": channel.collector,
        "newCollector": new_collector,
        "maxAmount": limit,
        "key": ZERO_ACCOUNT,
        "cap": 0,
        "expiry": 0,
        "nonce": NONCE,
        "deadline": deadline(),
    }
    body = {"new_collector": new_collector, "max_amount": AMOUNT.render(limit)}
    prepared = client.post("/v1/moves/prepare", body)
    with reading_answer(UNSIGNED):
        typed_data, stated = prepared["typed_data"], sent_back(prepared["move"])
    asked = AskedMessage(Statement("Move a balance", terms), MOVE_TYPE, fields)
    signature = client.wallet.sign(asked, typed_data)
    queued = client.post("/v1/moves/relay", {"move": stated, "signature": signature})
    client.wait_confirmed(queued)
    with reading_answer("the balance was moved"):
        return AMOUNT.read(queued["amount"])


def create_key(client: ApiClient, name: str) -> str:
    """Create an API key; returns its secret, which cannot be read again."""
    return str(client.post("/v1/keys", {"name": name})["secret"])
