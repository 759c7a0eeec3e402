"""Ports of the chain: contract calls, and the tables of indexer and sender."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from backend.domain.chain import BlockRef, ChainEvent
    from backend.domain.ids import Account, Hash32
    from backend.domain.transactions import (
        ChainTransaction,
        OpenTransaction,
        PreparedTransaction,
        TransactionAttempt,
    )


class Chain(Protocol):
    """An EVM chain and the contracts of one deployment, by their names in `Deployment.addresses`.

    Errors of what asks the node: `Unavailable` if it does not answer or refuses.
    """

    @property
    def chain_id(self) -> int: ...

    def address(self, contract: str) -> Account: ...

    def head(self) -> BlockRef: ...

    def block(self, number: int) -> BlockRef | None:
        """None above the head."""
        ...

    def balance(self, account: Account) -> int:
        """Balance of the chain's own coin, in wei."""
        ...

    def gas_price(self) -> int:
        """Price of gas in the newest block, base fee plus the suggested tip, in wei."""
        ...

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        """Call a view function. Returns bytes as 0x-hex, addresses in lower case, structs as dicts.

        Errors: `Reverted`.
        """
        ...

    def prepare(
        self, contract: str, function: str, *args: Any, sender: Account | None = None, value: int = 0
    ) -> PreparedTransaction:
        """Encode a call to be signed. With `sender` it is simulated (`Reverted`) and its gas estimated."""
        ...

    def decode(self, to: Account, data: str) -> Mapping[str, Any]:
        """`{"contract", "function", "args"}` of a call to one of our contracts, else `{"to", "data"}`."""
        ...

    def called(self, tx_hash: Hash32) -> Mapping[str, Any] | None:
        """The decoded call of a transaction, as from `decode`; None if the node does not know it."""
        ...

    def outcome(self, tx_hash: Hash32) -> tuple[int, bool] | None:
        """Number of the block with a transaction, and whether it succeeded; None until it is mined."""
        ...


class EventLog(Protocol):
    """The event log as `backend.chain.indexer` uses it: `backend.chain` does not import `backend.db`."""

    def cursor(self) -> BlockRef | None:
        """Last block that is indexed."""
        ...

    def locked_cursor(self) -> BlockRef | None:
        """The cursor, locked against other indexers until this transaction ends."""
        ...

    def checkpoints(self) -> list[BlockRef]:
        """Blocks to which a rewind can go, newest first."""
        ...

    def append(self, events: Sequence[ChainEvent], cursor: BlockRef) -> None:
        """Add all events after the old cursor up to the new one."""
        ...

    def rewind(self, to: BlockRef) -> int:
        """Remove everything above this block. Returns the number of removed events."""
        ...


class SendQueue(Protocol):
    """Our own transactions as the sender uses them: `backend.chain` does not import `backend.db`.

    Lanes are keys; the transactions of a lane are sent in order.
    """

    def lanes(self) -> list[Account]:
        """Keys with transactions that are not over."""
        ...

    def first_queued(self, lane: Account, passed: Collection[int] = ()) -> ChainTransaction | None:
        """The oldest that is not `passed`, but relayed calls after the operator's own: anyone may have many
        of them relayed.
        """
        ...

    def relay_cost(self, lane: Account, since: datetime) -> int:
        """Most that those transactions can cost, in wei, which count towards the relay budget and which the
        lane signed since then or has in the pool.
        """
        ...

    def open(self, lane: Account) -> list[OpenTransaction]:
        """Sent or mined and not yet confirmed, by rising nonce."""
        ...

    def is_unchanged(self, transaction: OpenTransaction) -> bool:
        """Whether the transaction is unchanged since `open` returned it."""
        ...

    def queued_ceilings(self, lane: Account) -> list[int | None]:
        """Fee ceilings of the operator's own queued calls, each once, in wei per gas."""
        ...

    def num_unmined(self, lane: Account) -> int:
        """Number of transactions that are sent and not yet mined."""
        ...

    def lock_lane(self, lane: Account) -> None:
        """Lock the key against other senders until this transaction ends."""
        ...

    def assign_nonce(self, lane: Account, transaction_id: int, chain_nonce: int, gas: int) -> int | None:
        """Give a queued transaction the lane's next nonce; None if another sender was faster."""
        ...

    def fill_nonce(self, lane: Account, nonce: int, gas: int) -> int | None:
        """Have a nonce used on which later ones wait. If one of our transactions had it, it is sent again and
        the result is None; else it is the row id of a new filler, which is still to be signed.
        """
        ...

    def add_attempt(self, transaction_id: int, attempt: TransactionAttempt, *, has_call: bool = True) -> None:
        """Store a signed version. Its hash becomes the transaction's, unless it does not have the call."""
        ...

    def mark_mined(
        self,
        transaction_id: int,
        tx_hash: Hash32,
        block_number: int,
        block_hash: Hash32,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """`error`: why it failed in this block, if it did."""
        ...

    def mark_unmined(self, transaction_id: int) -> None:
        """A reorg removed its block."""
        ...

    def mark_confirmed(self, transaction_id: int) -> None: ...

    def mark_failed(self, transaction_id: int, error: Mapping[str, Any]) -> None: ...

    def requeue(self, transaction_id: int) -> None:
        """Queue it again: a transaction that is not ours used its nonce, so it can never be mined."""
        ...
