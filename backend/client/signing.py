"""Signs with one key, for one pinned deployment, what its caller asked for, and nothing else.

A market proposes messages and transactions. Each is compared field by field with what the caller asked for
(`backend.client.comparison`). What is signed is built here from the caller's values, and is shown in words
before. Chain and contracts come from the deployment alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backend.chain.contracts import encode_call, interface
from backend.client.comparison import (
    NONCE,
    Chosen,
    SignatureRefused,
    agreed_message,
    agreed_value,
    as_struct,
    chosen_terms,
    has_chosen,
)
from backend.client.node import Node
from backend.domain.caip import chain_name
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.eip712 import build_typed_data
from backend.domain.errors import InvalidInput
from backend.domain.hashing import (
    AUTHORIZATION_TYPE,
    CONTRIBUTION_TYPE,
    GRANT_TYPE,
    MOVE_TYPE,
    PAYOUT_TYPE,
    REVOCATION_TYPE,
    VOUCHER_TYPE,
    TypedDomain,
)
from backend.domain.money import COIN
from backend.domain.sign_in_message import STATEMENT, parse_message
from backend.domain.transactions import as_json

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from eth_account.messages import SignableMessage

    from backend.client.keystore import Key
    from backend.client.node import Mined
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Account

VERIFIERS = {
    AUTHORIZATION_TYPE: PAYMENT_TOKEN,
    GRANT_TYPE: "PaymentVault",
    MOVE_TYPE: "PaymentVault",
    REVOCATION_TYPE: "PaymentVault",
    VOUCHER_TYPE: "PaymentVault",
    CONTRIBUTION_TYPE: "DatasetRegistry",
    PAYOUT_TYPE: "Settlement",
}
"""Messages that are signed, and the contract that verifies each."""
CALLS = frozenset(
    {
        ("PaymentVault", "thaw"),
        ("PaymentVault", "withdraw"),
        ("PaymentVault", "revokeSession"),
        ("PaymentVault", "cancelNonce"),
        ("Settlement", "claim"),
        ("DatasetRegistry", "createDatanet"),
        ("AdapterRegistry", "register"),
        ("MarketToken", "delegate"),
        ("MarketGovernor", "propose"),
        ("MarketGovernor", "castVoteWithReason"),
        ("MarketGovernor", "queue"),
        ("MarketGovernor", "execute"),
    }
)
"""Functions that transactions call. None of them takes or sends the chain's coin."""
_MAX_NAME_CHARACTERS = 64
MAX_CALL_BYTES = 1 << 16
"""Of call data that is decoded. Its pointers may name the same bytes many times: it grows with the square."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signature says, in words, for its owner to approve. Terms are pairs of a name and a value."""

    action: str
    terms: tuple[tuple[str, str], ...]


Approve = Callable[[Statement], object]
"""Returns if the owner of the key agrees, and raises otherwise."""


@dataclass(frozen=True, slots=True)
class AskedMessage:
    """An EIP-712 message that the caller wants to sign. `declaration`: one of `VERIFIERS`."""

    statement: Statement
    declaration: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AskedCall:
    """A transaction that the caller wants to send. `args` by the names and in the order of the ABI."""

    statement: Statement
    contract: str
    function: str
    args: Mapping[str, Any]


class Wallet:
    """One key, its deployment, and the approval of its owner. A node is needed only to send transactions."""

    def __init__(self, key: Key, deployment: Deployment, approve: Approve, node_url: str = "") -> None:
        self.deployment = deployment
        self._key = key
        self._approve = approve
        self._node_url = node_url

    @property
    def account(self) -> Account:
        return self._key.account

    def address(self, contract: str) -> Account:
        """Errors: `NotFound` if the deployment does not have it."""
        return self.deployment.address(contract)

    def node(self) -> AbstractContextManager[Node]:
        """Errors: `InvalidInput` if no node is named."""
        if not self._node_url:
            raise InvalidInput(
                "this needs a node of the chain: name one with --rpc-url or ETH_RPC_URL", param="rpc_url"
            )
        return Node(self._node_url, self.deployment)

    def next_nonce(self, contract: str) -> int:
        """The only nonce of the wallet's messages that the contract accepts now. Errors: `InvalidInput` if no
        node is named; `WrongChain`, `Unavailable`.
        """
        with self.node() as node:
            node.check()
            return int(node.read(contract, "nonces", self.account))

    def sign_in(self, text: str, origin: str | None) -> str:
        """Sign a market's EIP-4361 message (`personal_sign`). Returns 0x-hex.

        `origin`: the market's `scheme://host[:port]`, which the message must name, so that no other market
        can use the signature; None accepts any.
        """
        from eth_account.messages import encode_defunct

        message, chain_id = parse_message(text), self.deployment.chain_id
        if message.chain_id != chain_id:
            raise SignatureRefused(
                f"the market is on chain {message.chain_id}, the deployment on chain {chain_id}; nothing was "
                "signed: is it the right market, and the right deployment?"
            )
        if origin is not None and (message.uri, message.domain) != (origin, urlsplit(origin).netloc):
            raise SignatureRefused(
                f"the market at {origin} asks to sign in at {message.uri} ({message.domain}); nothing was "
                "signed: name that URL with --market if it is the market"
            )
        if replace(message, account=self.account, statement=STATEMENT).text() != text:
            raise SignatureRefused(
                "the sign-in message says something else than that this account signs in; nothing was signed",
                details={"message": text[:1000]},
            )
        self._ask("Sign in", (("market", message.uri), ("account", self.account)))
        return "0x" + bytes(self._key.unlock().sign_message(encode_defunct(text=text)).signature).hex()

    def sign(self, asked: AskedMessage, proposed: Mapping[str, Any] | None = None) -> str:
        """Sign an EIP-712 message. Returns 0x-hex.

        `proposed`: the market's typed data (`eth_signTypedData_v4`), where it chooses a field. Errors:
        `SignatureRefused`; those of `next_nonce` for a grant or move if a node is named.
        """
        if asked.declaration not in VERIFIERS:
            raise SignatureRefused(f"{asked.declaration} is not a message that this wallet signs")
        contract = VERIFIERS[asked.declaration]
        if proposed is None and any(isinstance(value, Chosen) for value in asked.fields.values()):
            raise SignatureRefused("the market proposes no typed data; nothing was signed")
        stated = {} if proposed is None else as_struct(proposed, "the typed data")
        fields = asked.fields if proposed is None else agreed_message(asked.fields, stated.get("message"))
        typed_data = build_typed_data(self._domain(contract, stated), asked.declaration, as_json(fields))
        if proposed is not None:
            agreed_value(typed_data, stated, "typed data")
        if contract == "PaymentVault" and asked.fields.get("nonce") is NONCE and self._node_url:
            # The vault's alone: a market may have earlier contributions in its queue.
            self._check_nonce(contract, fields["nonce"])
        signable = _signable(typed_data)
        self._ask(asked.statement.action, self._terms(asked.statement, asked.fields, fields, contract))
        return "0x" + bytes(self._key.unlock().sign_message(signable).signature).hex()

    def send(self, asked: AskedCall, proposed: Mapping[str, Any] | None = None) -> Mined:
        """Sign and send a transaction, and wait until it is mined.

        `proposed`: the transaction that the market prepared, where it chooses an argument. Errors:
        `SignatureRefused`, `WrongChain`; `Reverted` and `Conflict` if the contract refuses it; `Unavailable`;
        those of `Node.send`.
        """
        to, data, args = self._call(asked, proposed)
        with self.node() as node:
            node.check()
            call = {"from": self.account, "to": to, "data": data, "value": "0x0"}
            transaction = node.fill(asked.contract, asked.function, call)
            terms = self._terms(asked.statement, asked.args, args, asked.contract)
            most = transaction["gas"] * transaction["maxFeePerGas"] / COIN
            self._ask(asked.statement.action, (*terms, ("gas", f"at most {most:.9f} of the chain's coin")))
            return node.send(self._key.unlock(), transaction)

    def _call(
        self, asked: AskedCall, proposed: Mapping[str, Any] | None
    ) -> tuple[Account, str, Mapping[str, Any]]:
        """Contract, call data and arguments."""
        if (asked.contract, asked.function) not in CALLS:
            raise SignatureRefused(f"{asked.contract}.{asked.function} is not a call that this wallet sends")
        to = self.address(asked.contract)
        if proposed is None:
            if has_chosen(asked.args):
                raise SignatureRefused("the market proposes no transaction; nothing was signed")
            return to, "0x" + _encoded(asked, asked.args).hex(), asked.args
        stated = as_struct(proposed, "the transaction")
        envelope = {"chain_id": self.deployment.chain_id, "to": to, "value": 0}
        agreed_value(envelope, {name: stated.get(name) for name in envelope}, "transaction")
        data = str(stated.get("data")).lower()
        args = asked.args
        if len(data) <= 2 + 2 * MAX_CALL_BYTES or has_chosen(args):
            args = agreed_value(args, decode_call(asked.contract, asked.function, data), asked.function)
        # Nothing before, between or after.
        agreed_value("0x" + _encoded(asked, args).hex(), data, "transaction.data")
        return to, data, args

    def _domain(self, contract: str, proposed: Mapping[str, Any]) -> Mapping[str, Any]:
        """EIP-712 domain in the pinned contract. A payment token has its own name and version: with other
        ones, the token refuses the signature.
        """
        address = self.address(contract)
        if contract != PAYMENT_TOKEN:
            return TypedDomain(self.deployment.chain_id, address).fields
        stated = as_struct(proposed.get("domain"), "the domain")
        names = {name: stated[name] for name in ("name", "version") if name in stated}
        for name, value in names.items():
            if not isinstance(value, str) or len(value) > _MAX_NAME_CHARACTERS:
                raise SignatureRefused(
                    f"domain.{name} of the payment token is not a name; nothing was signed"
                )
        return {**names, "chainId": self.deployment.chain_id, "verifyingContract": address}

    def _check_nonce(self, contract: str, proposed: int) -> None:
        if proposed != (accepted := self.next_nonce(contract)):
            raise SignatureRefused(
                f"the market proposes the nonce {proposed}, and {contract} accepts {accepted} now; nothing "
                "was signed: repeat the command if another message of this wallet was under way",
                details={"accepted": accepted, "proposed": proposed},
            )

    def _terms(
        self, statement: Statement, asked: Mapping[str, Any], agreed: Mapping[str, Any], contract: str
    ) -> tuple[tuple[str, str], ...]:
        return (
            *statement.terms,
            *chosen_terms(asked, agreed),
            ("contract", f"{contract} {self.address(contract)}"),
        )

    def _ask(self, action: str, terms: tuple[tuple[str, str], ...]) -> None:
        chain = ("chain", chain_name(self.deployment.chain_id))
        self._approve(Statement(action, (*terms, chain)))


def decode_call(contract: str, function: str, data: str) -> Mapping[str, Any]:
    """Arguments by name. Errors: `SignatureRefused` if the data is not a call of this function, or has more
    than `MAX_CALL_BYTES`.
    """
    from eth_abi.exceptions import DecodingError

    candidates = {f.selector: f for f in interface(contract).functions if f.name == function}
    try:
        raw = bytes.fromhex(data.removeprefix("0x")) if len(data) <= 2 + 2 * MAX_CALL_BYTES else b""
        return candidates[raw[:4]].decode_args(raw[4:])
    except (ValueError, KeyError, DecodingError, OverflowError):
        raise SignatureRefused(
            f"the market proposes a transaction that is not {contract}.{function}; nothing was signed",
            details={"data": data[:200]},
        ) from None


def _encoded(asked: AskedCall, args: Mapping[str, Any]) -> bytes:
    """Call data."""
    return encode_call(asked.contract, asked.function, list(args.values()))


def _signable(typed_data: dict[str, Any]) -> SignableMessage:
    from eth_abi.exceptions import EncodingError
    from eth_account.messages import encode_typed_data

    try:
        return encode_typed_data(full_message=typed_data)
    except (ValueError, TypeError, OverflowError, EncodingError):
        raise SignatureRefused("a value of the market does not fit its type; nothing was signed") from None
