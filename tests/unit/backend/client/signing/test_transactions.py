"""A hostile market proposes another transaction than what was asked for: each argument in turn."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.contracts import encode_call
from backend.client import earnings, governance, registries
from backend.client.comparison import Chosen, SignatureRefused
from backend.client.errors import NotAMarket
from backend.client.signing import AskedCall, Statement, Wallet
from backend.domain.deployment import Deployment
from backend.domain.errors import InvalidInput
from backend.domain.hashing import keccak, to_hash
from backend.domain.money import AMOUNT
from tests.support.hostile_market import (
    ADDRESSES,
    CHAIN,
    KEY,
    OPERATOR,
    Chain,
    Market,
    Path,
    bump,
    changed,
    leaves,
    stated_channel,
    with_changed_values,
)
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable

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
DESCRIPTION = f"Set feePpm to 70000#proposer={KEY.account}"
DESCRIBED = to_hash(keccak(DESCRIPTION.encode()))
PROPOSAL_ID = str(
    governance._proposal_id(
        {"targets": PROPOSAL[0], "values": [0], "calldatas": PROPOSAL[2], "descriptionHash": DESCRIBED}
    )
)
Ask = tuple[str, tuple[Any, ...], "Callable[[Any], Any]", set[Path]]
SENT: dict[str, Ask] = {
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
        ("MarketGovernor", "propose", *PROPOSAL, DESCRIPTION),
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


def call(contract: str, function: str, *args: Any) -> dict[str, Any]:
    data = "0x" + encode_call(contract, function, args).hex()
    return {"chain_id": CHAIN, "to": ADDRESSES[contract], "data": data, "value": "0", "gas": 21_000}


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


@pytest.mark.parametrize("name", SENT)
def test_answers_with_any_other_values_are_refused_or_sent_to_the_contract(name: str) -> None:
    _, expected, ask, chosen = SENT[name]
    for seed in range(50):
        market = prepared(name, call(*expected))
        market.answers = with_changed_values(market.answers, seed)
        with suppress(SignatureRefused, NotAMarket):
            ask(market)
        for sent in market.chain.sent:
            assert sent["to"] == ADDRESSES[expected[0]]
            assert chosen or sent["data"] == call(*expected)["data"]


@pytest.mark.parametrize("more", ["00", "11" * 32])
def test_call_data_with_something_behind_it_is_refused(more: str) -> None:
    honest = call("MarketToken", "delegate", KEY.account)
    market = prepared("delegate", honest | {"data": honest["data"] + more})
    with pytest.raises(SignatureRefused, match=r"transaction\.data"):
        governance.delegate(market)  # type: ignore[arg-type]


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


def test_a_value_that_the_market_chooses_is_not_guessed() -> None:
    market = Market({})
    args = {"nameHash": RECORD["name"], "descriptionCid": Chosen()}
    asked = AskedCall(Statement("Create a datanet", ()), "DatasetRegistry", "createDatanet", args)
    with pytest.raises(SignatureRefused, match="proposes no transaction; nothing was signed"):
        market.wallet.send(asked)


def test_without_a_node_a_transaction_is_refused_before_it_is_shown() -> None:
    wallet = Wallet(KEY, Deployment(CHAIN, 1, some_hash("block"), ADDRESSES), pytest.fail)
    asked = AskedCall(Statement("Delegate", ()), "MarketToken", "delegate", {"delegatee": KEY.account})
    with pytest.raises(InvalidInput, match="--rpc-url"):
        wallet.send(asked, call("MarketToken", "delegate", KEY.account))
