"""What a page proposes to the visitor's wallet: explained in words, and as requests that the script makes.

A view prepares the transaction or message by the API's own function and returns `propose(request, proposal)`;
`scripts/transactions.ts` shows it before the wallet opens, and follows the transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.web.rendering import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from backend.domain.transactions import PreparedTransaction

Term = tuple[str, object]
"""A name, and its value as HTML of `formats` or as text."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to carry a proposal out. `label` is its button's; `steps` are what the script does:

    - `transactions`: the wallet sends them in order
    - `typed_data`: the wallet signs it
    - `relay`: `path` (without `/v1`) and `body` of a POST to the API; a signature is added to the body
    """

    label: str
    hint: str
    steps: Mapping[str, Any]
    contents: Sequence[Mapping[str, Any]]
    """What is signed, decoded: for those who want to compare it."""

    @classmethod
    def send(cls, *transactions: PreparedTransaction, label: str = "") -> Way:
        """The wallet sends transactions and pays their gas."""
        listed = [_sent(one) for one in transactions]
        hint = "Your wallet sends it and pays the gas."
        if len(listed) > 1:
            hint = f"Your wallet sends {len(listed)} transactions, one after the other, and pays their gas."
        contents = [dict(one.decoded) for one in transactions]
        return cls(label or "Send with the wallet", hint, {"transactions": listed}, contents)

    @classmethod
    def sign(
        cls,
        typed_data: Mapping[str, Any],
        path: str,
        body: Mapping[str, Any],
        hint: str = "Your wallet signs a message. The operator sends the transaction and pays its gas.",
    ) -> Way:
        """The wallet signs; the market gets body and signature."""
        relay = {"path": path, "body": dict(body)}
        domain, message = typed_data["domain"], typed_data["message"]
        contents = [{"contract": domain["name"], "function": typed_data["primaryType"], "args": message}]
        return cls("Sign with the wallet", hint, {"typed_data": typed_data, "relay": relay}, contents)

    @classmethod
    def ask_operator(cls, path: str, body: Mapping[str, Any]) -> Way:
        """The operator sends a transaction that needs no signature of the visitor."""
        hint = "The operator sends the transaction and pays its gas. Your wallet does not open."
        return cls("Have the operator send it", hint, {"relay": {"path": path, "body": dict(body)}}, ())


@dataclass(frozen=True, slots=True)
class Proposal:
    """`action`: in words, as the transaction is listed while it is pending. `effect`: what changes."""

    action: str
    terms: Sequence[Term]
    effect: str
    ways: Sequence[Way]
    """The first is recommended."""


def propose(request: Request, proposal: Proposal) -> Response:
    """The fragment that the script shows."""
    return render(request, "proposal.html", proposal=proposal)


def _sent(prepared: PreparedTransaction) -> dict[str, Any]:
    """As `eth_sendTransaction` takes it. The wallet estimates gas that could not be simulated."""
    gas = {} if prepared.gas is None else {"gas": hex(prepared.gas)}
    return {"to": prepared.to, "data": prepared.data, "value": hex(prepared.value), **gas}
