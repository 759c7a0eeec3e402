"""A hostile market proposes something else than what was asked for: each field in turn."""

from __future__ import annotations

import copy
import re
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.contracts import encode_call
from backend.client import contributions, earnings, governance, payments, registries
from backend.client.errors import ApiError, NotAMarket
from backend.client.keystore import LocalKey
from backend.client.node import Mined
from backend.client.signing import AskedCall, SignatureRefused, Statement, Wallet
from backend.domain.deployment import Deployment
from backend.domain.eip712 import build_typed_data
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.hashing import (
    AUTHORIZATION_TYPE,
    CONTRIBUTION_TYPE,
    GRANT_TYPE,
    MOVE_TYPE,
    TypedDomain,
    channel_id,
    deposit_nonce,
    keccak,
    licence_word,
    to_hash,
)
from backend.domain.ids import ZERO_ACCOUNT
from backend.domain.money import AMOUNT
from backend.domain.sign_in_message import STATEMENT, SignInMessage
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.client.signing import AskedMessage

CHAIN = 10
CONTRACTS = (
    "PaymentVault",
    "PaymentToken",
    "Settlement",
    "DatasetRegistry",
    "AdapterRegistry",
    "MarketToken",
    "MarketGovernor",
    "Parameters",
)
ADDRESSES = {name: some_account(name) for name in CONTRACTS}
KEY = LocalKey(keccak(b"payer"))
OPERATOR = some_account("operator")
CHANNEL = channel_id(KEY.account, OPERATOR, ADDRESSES["Settlement"])
UNITS = 5_000_000
MARKET = "https://market.example"
Path = tuple[str | int, ...]


class Chain:
    """The node that a wallet sends to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.parameters = {
            "treasury": some_account("treasury"),
            "feePpm": 50_000,
            "stakeCoverPpm": 1,
            "disputeWindow": 2,
            "minContributorsPpm": 3,
            "minOperatorPpm": 4,
            "maxOperatorPpm": 5,
            "challengerPpm": 6,
        }

    def check(self) -> None: ...

    def read(self, _contract: str, function: str) -> Any:
        return {"currentId": 3, "current": self.parameters}[function]

    def fill(self, _contract: str, _function: str, call: dict[str, Any]) -> dict[str, Any]:
        return {**call, "gas": 21_000, "maxFeePerGas": 10**9}

    def send(self, _signer: object, transaction: dict[str, Any]) -> Mined:
        self.sent.append(transaction)
        return Mined(some_hash("transaction"), 7)


class Market:
    """Answers as the API does, with what `answers` has for a path; takes what the client posts."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = {"/v1/moves/relay": {"amount": AMOUNT.render(600)}, **answers}
        self.posted: list[tuple[str, Any]] = []
        self.statements: list[Statement] = []
        deployment = Deployment(CHAIN, 1, some_hash("block"), ADDRESSES)
        self.wallet = Wallet(KEY, deployment, self.statements.append, "http://node")
        self.chain = Chain()
        self.wallet.node = self._node  # type: ignore[method-assign]

    @contextmanager
    def _node(self) -> Iterator[Chain]:
        yield self.chain

    def post(self, path: str, body: Any = None) -> Any:
        self.posted.append((path, body))
        return copy.deepcopy(self.answers.get(path, {}))

    def get(self, path: str) -> Any:
        return copy.deepcopy(self.answers[path])

    def list_all(self, _path: str) -> list[dict[str, Any]]:
        """Datanets: another account's and an older one of this name, then the new one too."""
        names = {"name": "poems", "creator": KEY.account}
        listed = [{"id": 1, **names}, {"id": 3, **names, "creator": OPERATOR}, {"id": 4, **names}]
        return listed if self.chain.sent else listed[:1]

    def wait_confirmed(self, _queued: Any) -> None: ...

    def has_signed(self) -> bool:
        return bool(self.statements or self.chain.sent)


def stated_channel() -> dict[str, Any]:
    names = ("balance", "thawing", "collected", "charged", "reserved", "available")
    whose = {"id": CHANNEL, "operator": OPERATOR, "collector": ADDRESSES["Settlement"], "sessions": []}
    return {"data": [{**whose, **dict.fromkeys(names, AMOUNT.render(0))}]}


def vault_data(declaration: str, message: dict[str, Any], contract: str = "PaymentVault") -> dict[str, Any]:
    return build_typed_data(TypedDomain(CHAIN, ADDRESSES[contract]).fields, declaration, message)


def call(contract: str, function: str, *args: Any) -> dict[str, Any]:
    data = "0x" + encode_call(contract, function, args).hex()
    return {"chain_id": CHAIN, "to": ADDRESSES[contract], "data": data, "value": "0", "gas": 21_000}


def deposit_answer() -> dict[str, Any]:
    cap, expiry = UNITS * 10**6, int(time.time()) + payments.SESSION_SECONDS
    key, salt, until = some_account("session"), some_hash("salt"), int(time.time()) + 3600
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


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


DEPOSIT = "/v1/deposits/prepare"
GRANT = "/v1/sessions/prepare"
MOVE = "/v1/moves/prepare"
CONTRIBUTE = "/v1/contributions/upload-1/typed-data"
FILE = contributions.CanonicalFile(some_hash("content"), 3)


def asks() -> dict[str, tuple[str, Callable[[], Any], Callable[[Any], Any], set[Path]]]:
    """Path and honest answer of the market, the client's call, and what the market may choose."""
    message = ("typed_data", "message")
    grant_cap, grant_expiry = 700, int(time.time()) + 60

    def contribution() -> dict[str, Any]:
        return vault_data(
            CONTRIBUTION_TYPE,
            {
                "account": KEY.account,
                "datanetId": "7",
                "contentHash": FILE.content_hash,
                "cidDigest": some_hash("folder"),
                "licence": licence_word("MIT"),
                "rows": "3",
                "nonce": "4",
                "deadline": str(int(time.time()) + 3600),
            },
            "DatasetRegistry",
        )

    def grant() -> dict[str, Any]:
        fields = {"channelId": CHANNEL, "key": some_account("session"), "cap": str(grant_cap)}
        return {"typed_data": vault_data(GRANT_TYPE, fields | {"expiry": str(grant_expiry), "nonce": "4"})}

    def move() -> dict[str, Any]:
        fields = {
            "payer": KEY.account,
            "operator": OPERATOR,
            "collector": ADDRESSES["Settlement"],
            "newCollector": some_account("next settlement"),
            "maxAmount": "700",
            "key": ZERO_ACCOUNT,
            "cap": "0",
            "expiry": "0",
            "nonce": "4",
            "deadline": str(int(time.time()) + 3600),
        }
        return {"move": "relayed as it is", "typed_data": vault_data(MOVE_TYPE, fields)}

    draft = {"id": "upload-1", "report": {"licence": "MIT", "num_rows": 3}}
    asked_grant = (some_account("session"), grant_cap, grant_expiry)
    return {
        "deposit": (
            DEPOSIT,
            deposit_answer,
            lambda market: payments.deposit(market, UNITS),
            {
                (*message, "validBefore"),
                ("typed_data", "domain", "name"),
                ("typed_data", "domain", "version"),
                ("relay", "valid_before"),
            },
        ),
        "grant": (
            GRANT,
            grant,
            lambda market: payments.grant_session(market, payments.own_channel(market), *asked_grant),
            {(*message, "nonce")},
        ),
        "move": (
            MOVE,
            move,
            lambda market: payments.move(market, some_account("next settlement"), 700),
            {(*message, "nonce"), (*message, "deadline")},
        ),
        "contribute": (
            CONTRIBUTE,
            contribution,
            lambda market: contributions.submit(market, draft, datanet=7, licence="mit", file=FILE),
            {("message", name) for name in ("cidDigest", "nonce", "deadline")},
        ),
    }


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


def changed(answer: Any, path: Path, change: Callable[[Any, str | int], None]) -> Any:
    found = copy.deepcopy(answer)
    inner = found
    for step in path[:-1]:
        inner = inner[step]
    change(inner, path[-1])
    return found


def bump(container: Any, name: str | int) -> None:
    """The smallest change of the value that has the same type."""
    value = container[name]
    if isinstance(value, int):
        container[name] = value + 1
    elif value.isdecimal():
        container[name] = str(int(value) + 1)
    else:
        container[name] = value[:-1] + ("1" if value[-1] != "1" else "2")


def drop(container: Any, name: str | int) -> None:
    del container[name]


def add(container: Any, _name: str | int) -> None:
    if isinstance(container, dict):
        container["more"] = "1"
    else:
        container.append({"name": "more", "type": "uint256"})


def empty(container: Any, name: str | int) -> None:
    container[name] = None


@pytest.mark.parametrize("name", ["deposit", "grant", "move", "contribute"])
@pytest.mark.parametrize("change", [bump, drop, add, empty])
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


@pytest.mark.parametrize("name", ["deposit", "grant", "move", "contribute"])
def test_what_was_asked_for_is_signed_with_the_values_that_the_market_may_choose(name: str) -> None:
    path, honest, ask, chosen = asks()[name]
    for leaf in (None, *chosen):
        answer = honest() if leaf is None else changed(honest(), leaf, bump)
        market = Market({"/v1/channels": stated_channel(), path: answer})
        ask(market)
        [statement] = market.statements
        assert ("chain", f"eip155:{CHAIN}") in statement.terms
        assert "signature" in market.posted[-1][1]


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
    market = Market({"/v1/channels": stated_channel()})
    assert payments.sign_voucher(market, 340) == 340  # type: ignore[arg-type]
    [(path, body)] = market.posted
    assert path == f"/v1/channels/{CHANNEL}/vouchers"
    asked = payments.asked_voucher(CHANNEL, 340)
    assert body["signature"] == Market({}).wallet.sign(asked)
    assert market.statements[0].terms[0] == ("amount", "up to 0.00000000034 dollars more")


def test_a_market_that_overstates_what_was_spent_does_not_hide_the_limit() -> None:
    stated = stated_channel()
    stated["data"][0] |= {"collected": AMOUNT.render(10**18), "charged": AMOUNT.render(10**18)}
    market = Market({"/v1/channels": stated})
    payments.sign_voucher(market, 10**12)  # type: ignore[arg-type]
    limit = ("limit", "1,000,001 dollars in all since the channel was opened")
    assert limit in market.statements[0].terms


def test_a_voucher_over_more_than_was_allowed_is_refused() -> None:
    details = {"code": "insufficient_authorisation", "required": AMOUNT.render(341)}
    market = Market({"/v1/channels": stated_channel()})
    answers = [ApiError("402", details=details), ApiError("402", details=details), None, "job"]

    def post(path: str, _body: Any) -> Any:
        market.posted.append((path, _body))
        if isinstance(answer := answers.pop(0), ApiError):
            raise answer
        return answer

    market.post = post  # type: ignore[method-assign]
    client: Any = market
    with pytest.raises(SignatureRefused, match=r"over 0\.000000000341 dollars, more than 0\.0+34 d"):
        payments.post_paid(client, "/v1/jobs", {}, most=340)
    assert not market.has_signed()
    assert payments.post_paid(client, "/v1/jobs", {}, most=341) == "job"


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


# Transactions

RECORD = {
    "creator": KEY.account,
    "name": to_hash(b"poems".ljust(32, b"\0")),
    "adapterDigest": some_hash("adapter"),
    "cidDigest": some_hash("folder"),
    "baseModel": some_hash("base"),
    "snapshots": [some_hash("snapshot")],
    "promptPrice": 1,
    "completionPrice": 2,
    "operatorPpm": 3,
    "creatorPpm": 4,
}
LISTING = registries.Listing("poems", 1, 2, 3, 4)
HEADER = {
    "operator": OPERATOR,
    **dict.fromkeys(("number", "parameterSet", "committedAt", "finalAt", "finalBlock", "total"), 1),
    **dict.fromkeys(("cumulativeTotal", "slashUpTo", "receiptsCount", "entriesCount", "balancesCount"), 1),
    **dict.fromkeys(
        ("parent", "spansHash", "receiptsRoot", "entriesRoot", "balancesRoot", "dataDigest"),
        some_hash("root"),
    ),
}
OPENING = {"index": 0, "value": 9, "path": "0x"}
CLAIM = {"header": HEADER, "account": KEY.account, "opening": OPENING}
EARNING = {"operator": OPERATOR, "claimable": AMOUNT.render(9)}
APPEND = encode_call("Parameters", "append", (3, Chain().parameters | {"feePpm": 70_000}))
PROPOSAL: list[Any] = [[ADDRESSES["Parameters"]], [0], ["0x" + APPEND.hex()]]
DESCRIBED = to_hash(keccak(b"Set feePpm to 70000"))
PROPOSAL_ID = str(
    governance._proposal_id(
        {"targets": PROPOSAL[0], "values": [0], "calldatas": PROPOSAL[2], "descriptionHash": DESCRIBED}
    )
)
COUNTERPARTY = (OPERATOR, ADDRESSES["Settlement"])
Ask = tuple[str, tuple[Any, ...], "Callable[[Any], Any]", set[Path]]
SENT: dict[str, Ask] = {
    "thaw": (
        "/v1/withdrawals/thaw/prepare",
        ("PaymentVault", "thaw", *COUNTERPARTY, 5),
        lambda market: payments.thaw(market, 5),
        set(),
    ),
    "withdraw": (
        "/v1/withdrawals/prepare",
        ("PaymentVault", "withdraw", *COUNTERPARTY),
        payments.withdraw,
        set(),
    ),
    "claim": (
        "/v1/claims/prepare",
        ("Settlement", "claim", CLAIM),
        lambda market: earnings.claim(market, EARNING, KEY.account, is_own_gas=True),
        {(0, "header", name) for name in HEADER if name != "operator"} | {(0, "opening", n) for n in OPENING},
    ),
    "register": (
        "register",
        ("AdapterRegistry", "register", RECORD),
        lambda market: registries.register_version(market, LISTING, market.post("register")),
        {(0, n) for n in ("adapterDigest", "cidDigest", "baseModel")} | {(0, "snapshots", 0)},
    ),
    "create": (
        "/v1/datanets/prepare",
        ("DatasetRegistry", "createDatanet", RECORD["name"], some_hash("folder")),
        lambda market: registries.create_datanet(market, "poems", "about poems"),
        {(1,)},
    ),
    "delegate": (
        "/v1/governance/delegate/prepare",
        ("MarketToken", "delegate", KEY.account),
        governance.delegate,
        set(),
    ),
    "propose": (
        "/v1/governance/parameters/prepare",
        ("MarketGovernor", "propose", *PROPOSAL, "Set feePpm to 70000"),
        lambda market: governance.propose(market, {"feePpm": 70_000}),
        set(),
    ),
    "vote": (
        f"/v1/governance/proposals/{PROPOSAL_ID}/vote/prepare",
        ("MarketGovernor", "castVoteWithReason", int(PROPOSAL_ID), 1, "why not"),
        lambda market: governance.cast(market, PROPOSAL_ID, "for", "why not"),
        set(),
    ),
    "queue": (
        f"/v1/governance/proposals/{PROPOSAL_ID}/queue/prepare",
        ("MarketGovernor", "queue", *PROPOSAL, DESCRIBED),
        lambda market: governance.queue(market, PROPOSAL_ID),
        set(),
    ),
    "execute": (
        f"/v1/governance/proposals/{PROPOSAL_ID}/execute/prepare",
        ("MarketGovernor", "execute", *PROPOSAL, DESCRIBED),
        lambda market: governance.execute(market, PROPOSAL_ID),
        set(),
    ),
}


def prepared(name: str, transaction: dict[str, Any]) -> Market:
    path = SENT[name][0]
    answer = {"transaction": transaction, "proposal_id": "1"} if name == "propose" else transaction
    return Market({"/v1/channels": stated_channel(), path: answer})


@pytest.mark.parametrize("name", SENT)
def test_the_call_that_was_asked_for_is_sent(name: str) -> None:
    _, (contract, function, *args), ask, chosen = SENT[name]
    for leaf in (None, *chosen):
        given = args if leaf is None else changed(args, leaf, bump)
        if leaf == (0, "opening", "path"):
            continue
        market = prepared(name, call(contract, function, *given))
        ask(market)
        [sent] = market.chain.sent
        assert (sent["from"], sent["to"], sent["value"]) == (KEY.account, ADDRESSES[contract], "0x0")
        assert sent["data"] == call(contract, function, *given)["data"]
        [statement] = market.statements
        assert ("contract", f"{contract} {ADDRESSES[contract]}") in statement.terms


def test_a_new_datanet_is_told_from_others_of_its_name() -> None:
    market = prepared("create", call("DatasetRegistry", "createDatanet", RECORD["name"], some_hash("folder")))
    assert registries.create_datanet(market, "poems", licence="MIT") == 4  # type: ignore[arg-type]
    assert ("/v1/datanets/prepare", {"name": "poems", "description": "", "licence": "MIT"}) in market.posted


@pytest.mark.parametrize("name", SENT)
def test_every_other_argument_of_a_call_is_refused(name: str) -> None:
    _, (contract, function, *args), ask, chosen = SENT[name]
    for leaf in leaves(args):
        if leaf in chosen:
            continue
        market = prepared(name, call(contract, function, *changed(args, leaf, bump)))
        with pytest.raises(SignatureRefused, match="nothing was signed"):
            ask(market)
        assert not market.has_signed(), leaf


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize(
    "change",
    [
        {"to": some_account("thief")},
        {"to": ADDRESSES["PaymentToken"]},
        {"to": None},
        {"value": "1"},
        {"value": None},
        {"chain_id": 1},
        {"chain_id": True},
        {"data": "0x"},
        {"data": "0xzz"},
        {"data": None},
        {"data": call("MarketToken", "transfer", some_account("thief"), 10**18)["data"]},
        {"data": call("MarketToken", "approve", some_account("thief"), 10**18)["data"]},
    ],
)
def test_another_transaction_is_refused(name: str, change: dict[str, Any]) -> None:
    _, (contract, function, *args), ask, _ = SENT[name]
    market = prepared(name, call(contract, function, *args) | change)
    with pytest.raises(SignatureRefused):
        ask(market)
    assert not market.has_signed()


@pytest.mark.parametrize("more", ["00", "11" * 32])
def test_call_data_with_something_behind_it_is_refused(more: str) -> None:
    honest = call("PaymentVault", "thaw", *COUNTERPARTY, 5)
    market = prepared("thaw", honest | {"data": honest["data"] + more})
    with pytest.raises(SignatureRefused, match=r"transaction\.data"):
        payments.thaw(market, 5)  # type: ignore[arg-type]


def test_a_parameter_that_changes_along_is_refused() -> None:
    """The values that a proposal keeps are read from the chain."""
    _, (contract, function, *args), ask, _ = SENT["propose"]
    slipped = Chain().parameters | {"feePpm": 70_000, "treasury": some_account("thief")}
    args[2] = ["0x" + encode_call("Parameters", "append", (3, slipped)).hex()]
    market = prepared("propose", call(contract, function, *args))
    with pytest.raises(SignatureRefused, match=r"propose\.calldatas\[0\]"):
        ask(market)
    assert not market.has_signed()


def test_a_call_that_is_not_on_the_list_is_not_sent() -> None:
    market = Market({})
    asked = AskedCall(Statement("Pay", ()), "MarketToken", "transfer", {"to": OPERATOR, "value": 1})
    with pytest.raises(SignatureRefused, match="not a call that this wallet sends"):
        market.wallet.send(asked, call("MarketToken", "transfer", OPERATOR, 1))


def test_without_a_node_a_transaction_is_refused_before_it_is_shown() -> None:
    wallet = Wallet(KEY, Deployment(CHAIN, 1, some_hash("block"), ADDRESSES), pytest.fail)
    asked = AskedCall(Statement("Delegate", ()), "MarketToken", "delegate", {"delegatee": KEY.account})
    with pytest.raises(InvalidInput, match="--rpc-url"):
        wallet.send(asked, call("MarketToken", "delegate", KEY.account))


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
