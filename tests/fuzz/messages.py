"""Parsers of messages: what wallets are asked to sign, the engine's frames, vLLM's answers, cursors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any

import msgspec

from backend.api.paging import QueryCursors, get_paging
from backend.chain.contracts import encode_call, interface
from backend.client.comparison import NONCE, Chosen, SignatureRefused
from backend.client.keystore import LocalKey
from backend.client.signing import CALLS, AskedCall, AskedMessage, Statement, Wallet
from backend.domain.deployment import Deployment
from backend.domain.eip712 import build_typed_data
from backend.domain.errors import InvalidInput
from backend.domain.hashing import AUTHORIZATION_TYPE, CONTRIBUTION_TYPE, TypedDomain, keccak
from backend.domain.sign_in_message import STATEMENT, SignInMessage, parse_message
from inference.protocol import Abort, Chunk, Generate, GetStatus, Message
from inference.server.frames import (
    FrameTooLargeError,
    decode_command,
    decode_event,
    encode_frame,
    find_request_id,
    read_frame,
)
from tests.fuzz.mutations import behind, framed, json_values, words
from tests.fuzz.target import Bytes, Target
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAIN, MARKET = 10, "https://market.example"
NAMES = ("PaymentVault", "PaymentToken", "Settlement", "DatasetRegistry", "AdapterRegistry", "MarketToken")
DEPLOYMENT = Deployment(
    CHAIN, 1, some_hash("block"), {name: some_account(name) for name in (*NAMES, "MarketGovernor")}
)
KEY = LocalKey(keccak(b"payer"))
SIGNED_CALLS = sorted(CALLS)
SIGN = Statement("Sign", ())
MESSAGES = (
    AskedMessage(
        SIGN,
        AUTHORIZATION_TYPE,
        {
            "from": KEY.account,
            "to": some_account("PaymentVault"),
            "value": 5,
            "validAfter": 0,
            "validBefore": Chosen(most=1 << 40),
            "nonce": Chosen("salt"),
        },
    ),
    AskedMessage(
        SIGN,
        CONTRIBUTION_TYPE,
        {
            "account": KEY.account,
            "datanetId": 7,
            "contentHash": Chosen("rows"),
            "cidDigest": Chosen("folder"),
            "licence": some_hash("licence"),
            "rows": Chosen("number of rows"),
            "nonce": NONCE,
            "deadline": Chosen(most=1 << 40),
        },
    ),
)


def _wallet() -> Wallet:
    return Wallet(KEY, DEPLOYMENT, lambda _: None)


def sign_in(data: bytes) -> None:
    """As the API reads a message, and as a wallet does that a market asks to sign."""
    text = data.decode(errors="replace") if data[:1] != b'"' else _json(data)
    if not isinstance(text, str):
        return
    with contextlib.suppress(InvalidInput):
        parse_message(text).text()
    with contextlib.suppress(InvalidInput, SignatureRefused):
        _wallet().sign_in(text, MARKET)


def sign_in_seeds() -> list[bytes]:
    from datetime import UTC, datetime

    at = datetime(2026, 1, 2, tzinfo=UTC)
    message = SignInMessage("market.example", KEY.account, MARKET, CHAIN, "abcdefgh1", at, at, at, STATEMENT)
    text = message.text()
    return [text.encode(), json.dumps(text).encode(), text.replace(STATEMENT + "\n", "").encode()]


def typed_data(data: bytes) -> None:
    """The first byte selects what the wallet's owner asked for."""
    source = Bytes(data)
    asked, proposed = MESSAGES[source.number() % len(MESSAGES)], _json(source.rest())
    with contextlib.suppress(SignatureRefused, InvalidInput):
        _wallet().sign(asked, proposed)


def typed_data_seeds() -> list[bytes]:
    token = {
        "name": "USD Coin",
        "version": "2",
        "chainId": CHAIN,
        "verifyingContract": some_account("PaymentToken"),
    }
    vault = TypedDomain(CHAIN, some_account("DatasetRegistry")).fields
    chosen: tuple[Mapping[str, Any], ...] = (
        {"validBefore": "99", "nonce": some_hash("n")},
        {
            "contentHash": some_hash("c"),
            "cidDigest": some_hash("f"),
            "rows": "3",
            "nonce": "4",
            "deadline": "1700000000",
        },
    )
    found = []
    for index, (asked, values, domain) in enumerate(zip(MESSAGES, chosen, (token, vault), strict=True)):
        message = {name: values.get(name, str(value)) for name, value in asked.fields.items()}
        stated = build_typed_data(domain, asked.declaration, message)
        found.append(bytes([index]) + json.dumps(stated).encode())
    return found


def call_data(data: bytes) -> None:
    """The first byte selects the function; the rest is the call's data."""
    source = Bytes(data)
    contract, function = SIGNED_CALLS[source.number() % len(SIGNED_CALLS)]
    (entry,) = (each for each in interface(contract).functions if each.name == function)
    asked = AskedCall(SIGN, contract, function, {each["name"]: Chosen("any") for each in entry.inputs})
    stated = {
        "chain_id": CHAIN,
        "to": DEPLOYMENT.address(contract),
        "value": "0",
        "data": "0x" + source.rest().hex(),
    }
    with contextlib.suppress(SignatureRefused):
        _wallet()._call(asked, stated)


def repeated_bytes(count: int, size: int) -> bytes:
    """An input of `call_data`: a proposal whose calls are all the same bytes, `count` times."""

    def words(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(32, "big") for number in numbers)

    (entry,) = (each for each in interface("MarketGovernor").functions if each.name == "propose")
    calls = words(count, *[32 * count] * count, size) + bytes(size)
    heads = words(128, 160, 192, 192 + len(calls))
    selected = bytes([SIGNED_CALLS.index(("MarketGovernor", "propose"))])
    return selected + entry.selector + heads + words(0, 0) + calls + words(0)


def call_data_seeds() -> list[bytes]:
    propose = ([some_account("Parameters")], [0], [b"\1\2\3\4"], "why")
    arguments: dict[str, tuple[Any, ...]] = {
        "propose": propose,
        "castVoteWithReason": (1, 1, "because"),
        "delegate": (some_account("voter"),),
    }
    return [
        bytes([index]) + encode_call(contract, function, arguments[function])
        for index, (contract, function) in enumerate(SIGNED_CALLS)
        if function in arguments
    ]


def frames(data: bytes) -> None:
    """A stream of frames, each as a command and as an event. The address of any message can be asked for."""

    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        with contextlib.suppress(FrameTooLargeError):
            while (body := await read_frame(reader)) is not None:
                for decode in (decode_command, decode_event):
                    with contextlib.suppress(msgspec.MsgspecError):
                        message = decode(body)
                        assert decode(encode_frame(message)[4:]) == message
                find_request_id(body)

    _loop().run_until_complete(read())


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all inputs: a new one takes longer than most of them."""
    return asyncio.new_event_loop()


def frames_seeds() -> list[bytes]:
    asked = Generate("a", (Message("user", "hello"),), priority=1)
    found = [encode_frame(each) for each in (asked, Abort("a"), GetStatus("s"), Chunk("a", "x", [1], 2, 3))]
    return [*found, b"".join(found)]


def cursors(data: bytes) -> None:
    text = data.decode(errors="replace")
    with contextlib.suppress(InvalidInput):
        _ = get_paging(text).after_number
    with contextlib.suppress(InvalidInput):
        QueryCursors({"model": "a"}).read(text, int)


def cursors_seeds() -> list[bytes]:
    return [b"MTI", QueryCursors({"model": "a"}).write(12).encode(), b"YWJj"]


def _json(data: bytes) -> Any:
    """What the client's HTTP library reads; a body that is no JSON is refused before."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


TARGETS = (
    Target("sign_in", sign_in, sign_in_seeds, max_bytes=2048),
    Target("typed_data", typed_data, typed_data_seeds, max_bytes=6000, mutate=behind(1, json_values)),
    Target("call_data", call_data, call_data_seeds, max_bytes=2048, mutate=behind(5, words)),
    Target("frames", frames, frames_seeds, mutate=framed(4, "big", json_values)),
    Target("cursors", cursors, cursors_seeds, max_bytes=200),
)
