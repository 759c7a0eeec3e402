"""Calls of contracts and the transactions that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from backend.domain.caip import chain_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from backend.domain.ids import Account, Hash32

SIGNED_CALLS = frozenset(
    {
        "contributeWithSig",
        "depositWithAuthorization",
        "grantSessionWithSig",
        "moveBalance",
        "revokeSessionWithSig",
        "setPayoutWalletWithSig",
    }
)
"""Functions that check the signature of an account for which an operator sends the call."""
SIGNED_CALL_GAS_CAP = 1_000_000
"""Highest gas limit of their transactions: if the account that signed is a contract (EIP-1271), the check of
its signature may use all the gas that it is given, at this operator's cost.
"""
RELAYED_CALLS = SIGNED_CALLS | {"claim", "freeze"}
"""Functions that operators call for others. Their own calls are sent first."""
BUDGETED_CALLS = RELAYED_CALLS | {"review"}
"""Functions whose cost counts towards the budget for relayed calls. A curating operator reviews each relayed
contribution, and once more if it is withdrawn. Reviews never wait for the budget.
"""
RELAY_PERIOD = timedelta(hours=24)
"""Period of the budget for relayed calls."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a contract of the deployment. `contract` is its name in `Deployment.addresses`."""

    contract: str
    function: str
    args: tuple[Any, ...]
    value: int = 0  # wei


@dataclass(frozen=True, slots=True)
class CallResult:
    """Result of sending a call."""

    call: Call
    tx_hash: Hash32 | None
    """None if it was not sent."""
    error: str = ""
    """Why it was not sent, why it failed, or that it is not mined yet; empty if it succeeded."""
    reverted: str = ""
    """Name of the custom error, if a contract refuses the call."""
    is_pending: bool = False
    """Whether it is queued or sent and not mined yet."""

    @property
    def is_done(self) -> bool:
        return not self.error


@dataclass(frozen=True, slots=True)
class PreparedTransaction:
    """A call for a user's wallet to sign, with a decoded form that the user can read."""

    chain_id: int
    to: Account
    data: str
    value: int  # wei
    decoded: Mapping[str, Any]
    """`{"contract": name, "function": name, "args": {name: value}}`, integers as decimal strings."""
    gas: int | None
    """Gas limit, estimated with a margin; None if the sender is not known."""

    @property
    def chain(self) -> str:
        """CAIP-2 identifier."""
        return chain_name(self.chain_id)


class TransactionState(StrEnum):
    QUEUED = "queued"
    SENT = "sent"
    MINED = "mined"
    CONFIRMED = "confirmed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ChainTransaction:
    """A transaction of ours, queued or sent. `lane` is the account of the key that sends it."""

    id: int
    lane: Account
    contract: str
    function: str
    args: tuple[Any, ...]
    idempotency_key: str
    state: TransactionState
    nonce: int | None
    hash: Hash32 | None
    """Hash of the mined attempt, else of the latest one with the call; None while queued."""
    block_number: int | None
    block_hash: Hash32 | None
    error: Mapping[str, Any] | None
    """`{"error": custom error or kind, "message": text, "args": {...}}` of a failed transaction, from the
    block on that includes it.
    """
    trace: str | None = None
    """`traceparent` of the request that queued it (W3C Trace Context)."""
    value: int = 0  # wei
    gas: int | None = None
    """Gas limit. While queued, that of a relayed transaction is an estimate, and others have None."""
    fee_ceiling: int | None = None
    """Highest fee that it may offer, in wei per gas; None: that of all transactions."""


@dataclass(frozen=True, slots=True)
class TransactionAttempt:
    """One signed version of a transaction; all have the same nonce, and fees (wei per gas) of their own."""

    tx_hash: Hash32
    raw: str
    max_fee: int
    priority_fee: int
    sent_at_block: int


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that has a nonce and is not confirmed yet."""

    id: int
    contract: str
    function: str
    args: tuple[Any, ...]
    nonce: int
    gas: int
    is_mined: bool
    attempts: tuple[TransactionAttempt, ...]
    """By rising `max_fee`. The last one may be too dear for the account: then an earlier one is cheaper."""
    trace: str | None = None
    value: int = 0  # wei
    fee_ceiling: int | None = None
    """Highest fee that it may offer, in wei per gas; None: that of all transactions."""

    @property
    def is_filler(self) -> bool:
        """Whether the transaction only uses up a nonce, so that those with later nonces can be mined."""
        return not self.contract


@dataclass(frozen=True, slots=True)
class Relayed:
    """Transactions that count towards the budget for relayed calls."""

    cost: int
    """Most that those which are signed can cost, in wei: gas limits times the highest fees signed."""
    queued_gas: int
    """Gas limits of those that are not signed yet."""
    first_at: datetime | None
    """When the first of them was signed."""


def as_json(value: Any) -> Any:
    """Convert arguments for JSON: integers to decimal strings, bytes to 0x-hex, sequences to lists."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    return [as_json(item) for item in value]
