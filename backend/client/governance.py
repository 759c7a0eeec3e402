"""A voter's calls: delegate, propose, vote, queue, execute. The voter's wallet sends each of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from eth_abi.abi import default_codec

from backend.chain.contracts import encode_call, interface
from backend.client.comparison import SignatureRefused
from backend.client.errors import UNSIGNED, reading_answer
from backend.client.signing import AskedCall, Statement, decode_call
from backend.domain.errors import InvalidInput
from backend.domain.governance import restrict
from backend.domain.hashing import keccak, to_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.client.api import ApiClient
    from backend.client.node import Mined
    from backend.client.signing import Wallet

PROPOSALS = "/v1/governance/proposals"
GOVERNOR, PARAMETERS = "MarketGovernor", "Parameters"
GOVERNED = {
    "Parameters",
    "DatasetRegistry",
    "MarketGovernor",
    "MarketToken",
    "TimelockController",
    "AccessManager",
}
"""Contracts whose calls in proposals are shown in words."""
BALLOTS = ("against", "for", "abstain")
"""In the order of OpenZeppelin's `GovernorCountingSimple`."""


def delegate(client: ApiClient) -> Mined:
    """Delegate the wallet's votes to itself."""
    account = client.wallet.account
    statement = Statement("Delegate votes", (("to", f"{account}, this wallet"),))
    asked = AskedCall(statement, "MarketToken", "delegate", {"delegatee": account})
    return client.wallet.send(asked, client.post("/v1/governance/delegate/prepare", {}))


def propose(client: ApiClient, changes: Mapping[str, int | str], description: str = "") -> str:
    """Propose new values of parameters; all others keep those on the chain. No other account can propose the
    same text. Returns the proposal's id.
    """
    description = description or "Set " + ", ".join(f"{name} to {value}" for name, value in changes.items())
    body = {"changes": dict(changes), "description": description}
    prepared = client.post("/v1/governance/parameters/prepare", body)
    with reading_answer(UNSIGNED):
        transaction = prepared["transaction"]
    with client.wallet.node() as node:
        node.check()
        number, current = node.read(PARAMETERS, "currentId"), node.read(PARAMETERS, "current")
    call = encode_call(PARAMETERS, "append", (number, {**current, **changes}))
    args: dict[str, Any] = {
        "targets": [client.wallet.address(PARAMETERS)],
        "values": [0],
        "calldatas": ["0x" + call.hex()],
        "description": restrict(description, client.wallet.account),
    }
    terms = tuple((name, f"{value}, now {current.get(name)}") for name, value in changes.items())
    statement = Statement("Propose", (*terms, ("description", description)))
    client.wallet.send(AskedCall(statement, GOVERNOR, "propose", args), transaction)
    return str(_proposal_id({**args, "descriptionHash": to_hash(keccak(args["description"].encode()))}))


def cast(client: ApiClient, proposal: str, ballot: str, reason: str = "") -> Mined:
    """Vote. Errors: `InvalidInput` for what is no id of a proposal."""
    args = {"proposalId": _parse_id(proposal), "support": BALLOTS.index(ballot), "reason": reason}
    terms = (("proposal", proposal), ("ballot", ballot), ("reason", reason or "none"))
    asked = AskedCall(Statement("Vote", terms), GOVERNOR, "castVoteWithReason", args)
    body = {"ballot": ballot, "reason": reason}
    return client.wallet.send(asked, client.post(f"{PROPOSALS}/{proposal}/vote/prepare", body))


def queue(client: ApiClient, proposal: str) -> Mined:
    """Queue a proposal that succeeded in the timelock."""
    return _send_operation(client, proposal, "queue", client.post(f"{PROPOSALS}/{proposal}/queue/prepare"))


def execute(client: ApiClient, proposal: str) -> Mined:
    """Execute a queued proposal."""
    prepared = client.post(f"{PROPOSALS}/{proposal}/execute/prepare")
    return _send_operation(client, proposal, "execute", prepared)


def _send_operation(client: ApiClient, proposal: str, function: str, prepared: Mapping[str, Any]) -> Mined:
    """The governor knows a proposal by the hash of its calls: they are the market's to state, and must hash
    to the proposal that was asked for.
    """
    with reading_answer(UNSIGNED):
        data = str(prepared["data"])
    args = decode_call(GOVERNOR, function, data)
    if len(args["targets"]) != len(args["calldatas"]) or str(_proposal_id(args)) != proposal:
        raise SignatureRefused(f"the market prepared another proposal than {proposal}; nothing was signed")
    calls = zip(args["targets"], args["calldatas"], strict=True)
    terms = tuple(("call", _describe(client.wallet, target, data)) for target, data in calls)
    statement = Statement(f"{function.capitalize()} a proposal", (("proposal", proposal), *terms))
    return client.wallet.send(AskedCall(statement, GOVERNOR, function, args), prepared)


def _parse_id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,78}", text):
        raise InvalidInput(
            f"{text!r} is not the id of a proposal: `loraledger vote list` shows them", param="proposal"
        )
    return int(text)


def _proposal_id(args: Mapping[str, Any]) -> int:
    """`MarketGovernor.hashProposal`."""
    kinds = ["address[]", "uint256[]", "bytes[]", "bytes32"]
    datas = [bytes.fromhex(data[2:]) for data in args["calldatas"]]
    described = bytes.fromhex(args["descriptionHash"][2:])
    encoded = default_codec.encode(kinds, [args["targets"], args["values"], datas, described])
    return int.from_bytes(keccak(encoded), "big")


def _describe(wallet: Wallet, target: str, data: str) -> str:
    """A call of a proposal in words; calls of unknown contracts, and malformed ones, as they are."""
    names = {str(address): name for name, address in wallet.deployment.addresses.items()}
    is_governed = names.get(target) in GOVERNED
    call = interface(names[target]).decode_call(bytes.fromhex(data[2:])) if is_governed else None
    if call is None:
        return f"{target} with {data}"
    function, args = call
    return f"{names[target]}.{function} ({', '.join(f'{name} {value}' for name, value in args.items())})"
