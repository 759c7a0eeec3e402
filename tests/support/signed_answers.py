"""Honest answers of a market that ask a wallet to sign, and the client's calls that get them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from backend.client import contributions, payments
from backend.domain.eip712 import build_typed_data
from backend.domain.hashing import (
    AUTHORIZATION_TYPE,
    CONTRIBUTION_TYPE,
    GRANT_TYPE,
    MOVE_TYPE,
    TypedDomain,
    deposit_nonce,
    licence_word,
)
from backend.domain.ids import ZERO_ACCOUNT
from tests.support.hostile_market import ADDRESSES, CHAIN, CHANNEL, KEY, NONCE, OPERATOR, UNITS, Path
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.ids import Account

DEPOSIT = "/v1/deposits/prepare"
GRANT = "/v1/sessions/prepare"
MOVE = "/v1/moves/prepare"
CONTRIBUTE = "/v1/contributions/upload-1/typed-data"
FILE = contributions.CanonicalFile(some_hash("content"), 3)


def vault_data(declaration: str, message: dict[str, Any], contract: str = "PaymentVault") -> dict[str, Any]:
    return build_typed_data(TypedDomain(CHAIN, ADDRESSES[contract]).fields, declaration, message)


def deposit_answer(
    key: Account | None = None, cap: int = UNITS * 10**6, expiry: int | None = None
) -> dict[str, Any]:
    """With a session key; a `cap` of 0 grants none."""
    key = key or (some_account("session") if cap else ZERO_ACCOUNT)
    if expiry is None:
        expiry = int(time.time()) + payments.SESSION_SECONDS if cap else 0
    salt, until = some_hash("salt"), int(time.time()) + 3600
    message = {
        "from": KEY.account,
        "to": ADDRESSES["PaymentVault"],
        "value": str(UNITS),
        "validAfter": "0",
        "validBefore": str(until),
        "nonce": deposit_nonce(CHANNEL, key, cap, expiry, salt),
    }
    token = {
        "name": "USD Coin",
        "version": "2",
        "chainId": CHAIN,
        "verifyingContract": ADDRESSES["PaymentToken"],
    }
    grant = {"key": key, "cap": str(cap), "expiry": expiry}
    return {
        "relay": {"units": str(UNITS), "grant": grant, "salt": salt, "valid_before": until},
        "typed_data": build_typed_data(token, AUTHORIZATION_TYPE, message),
    }


def asked_grant() -> tuple[Account, int, int]:
    """Session key, cap and expiry."""
    return some_account("session"), 700, int(time.time()) + 60


def contribution_answer() -> dict[str, Any]:
    return vault_data(
        CONTRIBUTION_TYPE,
        {
            "account": KEY.account,
            "datanetId": "7",
            "contentHash": FILE.content_hash,
            "cidDigest": some_hash("folder"),
            "licence": licence_word("MIT"),
            "rows": "3",
            "nonce": str(NONCE),
            "deadline": str(int(time.time()) + 3600),
        },
        "DatasetRegistry",
    )


def grant_answer() -> dict[str, Any]:
    key, cap, expiry = asked_grant()
    fields = {"channelId": CHANNEL, "key": key, "cap": str(cap), "expiry": str(expiry), "nonce": str(NONCE)}
    return {"typed_data": vault_data(GRANT_TYPE, fields)}


def move_answer() -> dict[str, Any]:
    fields = {
        "payer": KEY.account,
        "operator": OPERATOR,
        "collector": ADDRESSES["Settlement"],
        "newCollector": some_account("next settlement"),
        "maxAmount": "700",
        "key": ZERO_ACCOUNT,
        "cap": "0",
        "expiry": "0",
        "nonce": str(NONCE),
        "deadline": str(int(time.time()) + 3600),
    }
    return {"move": "relayed as it is", "typed_data": vault_data(MOVE_TYPE, fields)}


def asks() -> dict[str, tuple[str, Callable[[], Any], Callable[[Any], Any], set[Path]]]:
    """Path and honest answer of the market, the client's call, and what the market may choose."""
    message = ("typed_data", "message")
    draft = {"id": "upload-1", "report": {"licence": "MIT", "num_rows": 3}}
    of_the_token = {
        (*message, "validBefore"),
        ("typed_data", "domain", "name"),
        ("typed_data", "domain", "version"),
        ("relay", "valid_before"),
    }
    return {
        "deposit": (
            DEPOSIT,
            deposit_answer,
            lambda market: payments.deposit(market, UNITS),
            of_the_token,
        ),
        "deposit without a session": (
            DEPOSIT,
            lambda: deposit_answer(cap=0),
            lambda market: payments.deposit(market, UNITS, with_session=False),
            of_the_token,
        ),
        "grant": (
            GRANT,
            grant_answer,
            lambda market: payments.grant_session(market, payments.own_channel(market), *asked_grant()),
            set(),
        ),
        "move": (
            MOVE,
            move_answer,
            lambda market: payments.move(market, some_account("next settlement"), 700),
            {(*message, "deadline")},
        ),
        "contribute": (
            CONTRIBUTE,
            contribution_answer,
            lambda market: contributions.submit(market, draft, datanet=7, licence="mit", file=FILE),
            {("message", name) for name in ("cidDigest", "nonce", "deadline")},
        ),
    }
