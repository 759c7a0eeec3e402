"""The chain as services see it: a client to ask and prepare, a queue to send, a view made from events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from backend.domain.chain import BlockRef, ChainEvent
    from backend.domain.channels import Channel, Grant
    from backend.domain.governance import Proposal
    from backend.domain.ids import Account, ChannelId, DatanetId, Hash32, SnapshotId, VersionId
    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import Contribution, Datanet, Operator, RegisteredVersion, Snapshot
    from backend.domain.settlement import Claim, CommittedBatch, DemandAnswer, DemandStatus, PaidSpan
    from backend.domain.transactions import (
        ChainTransaction,
        OpenTransaction,
        PreparedTransaction,
        TransactionAttempt,
    )


class Signer(Protocol):
    """Holds one secp256k1 key, or reaches one that it cannot read (KMS)."""

    @property
    def account(self) -> Account: ...

    def sign(self, digest: bytes) -> str:
        """Sign 32 bytes; 65 bytes r, s, v (27 or 28) as 0x-hex, s in the lower half."""
        ...


class Recover(Protocol):
    def __call__(self, digest: bytes, signature: str) -> Account:
        """Account that signed the 32 bytes. `InvalidInput` for malformed or high-s signatures."""
        ...


class ContractWallets(Protocol):
    def accepts(self, account: Account, digest: bytes, signature: str) -> bool | None:
        """Whether the contract at `account` takes this as its signature of the 32 bytes (EIP-1271); None
        where no contract is. `InvalidInput` for what is no hex or too long, `Unavailable` without the chain.
        """
        ...


class Chain(Protocol):
    """One EVM chain and the contracts of one deployment, named as in `Deployment.addresses`."""

    @property
    def chain_id(self) -> int: ...

    def address(self, contract: str) -> Account: ...

    def head(self) -> BlockRef: ...

    def block(self, number: int) -> BlockRef | None:
        """None above the head."""
        ...

    def balance(self, account: Account) -> int:
        """Of the chain's own coin, in wei."""
        ...

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        """Read. Bytes come back as 0x-hex, addresses in lower case, structs as dicts. Raises `Reverted`."""
        ...

    def prepare(
        self, contract: str, function: str, *args: Any, sender: Account | None = None, value: int = 0
    ) -> PreparedTransaction:
        """Encode a call for somebody to sign; with `sender`: simulated (`Reverted`), its gas estimated."""
        ...

    def decode(self, to: Account, data: str) -> Mapping[str, Any]:
        """`{"contract", "function", "args"}` of a call to one of our contracts, else `{"to", "data"}`."""
        ...

    def called(self, tx_hash: Hash32) -> Mapping[str, Any] | None:
        """What a transaction calls, as `decode`; None for one that the node does not know."""
        ...


class EventSource(Protocol):
    """What the indexer asks of the chain."""

    def head(self) -> BlockRef: ...

    def block(self, number: int) -> BlockRef | None: ...

    def events(self, first: int, last: int) -> list[ChainEvent]:
        """In order of the chain. Any error but `Unavailable` means: ask for fewer blocks."""
        ...

    def check(self) -> None:
        """`ChainReplaced` if this is another chain than the deployment's."""
        ...


class EventLog(Protocol):
    """Events, projections and cursor: one transaction moves them together."""

    def cursor(self) -> BlockRef | None: ...

    def locked_cursor(self) -> BlockRef | None:
        """The cursor; until this transaction ends nobody else moves it."""
        ...

    def checkpoints(self) -> list[BlockRef]:
        """Blocks to which a rewind can go, newest first."""
        ...

    def append(self, events: Sequence[ChainEvent], cursor: BlockRef) -> None:
        """All events after the old cursor up to the new one."""
        ...

    def rewind(self, to: BlockRef) -> int:
        """Forget everything above this block; how many events fell out."""
        ...


class IndexerTx(Protocol):
    @property
    def event_log(self) -> EventLog: ...


class Transactions(Protocol):
    """Our own transactions, sent by the sender process in order per lane."""

    def enqueue(
        self,
        lane: Account,
        contract: str,
        function: str,
        args: Sequence[Any],
        idempotency_key: str,
    ) -> int:
        """Row id. The same key returns the same row; the same key with another call is a `Conflict`."""
        ...

    def get(self, transaction_id: int) -> ChainTransaction:
        """`NotFound` when there is none."""
        ...

    def by_key(self, idempotency_key: str) -> ChainTransaction | None: ...

    def note_request(self, account: Account, transaction_id: int) -> None:
        """The transaction is sent for this account, perhaps for others too. Idempotent."""
        ...

    def is_requested(self, account: Account, transaction_id: int) -> bool:
        """Whether it is sent for this account."""
        ...

    def requested(self, account: Account, before: int | None, limit: int) -> Sequence[ChainTransaction]:
        """Those sent for the account, newest first, with an id below `before`."""
        ...


class SendQueue(Transactions, Protocol):
    """The sender's side of our transactions."""

    def lanes(self) -> list[Account]:
        """Keys that have something to send or to watch."""
        ...

    def to_be_mined(self, lane: Account, contract: str, function: str) -> Sequence[ChainTransaction]:
        """Queued, or sent and not seen in a block; oldest first."""
        ...

    def first_queued(self, lane: Account) -> ChainTransaction | None: ...

    def open(self, lane: Account) -> list[OpenTransaction]:
        """Sent or mined, not yet confirmed; by rising nonce."""
        ...

    def is_as_seen(self, transaction: OpenTransaction) -> bool:
        """Whether it is still what `open` gave."""
        ...

    def num_waiting(self, lane: Account) -> int:
        """Sent, not yet mined."""
        ...

    def lock_lane(self, lane: Account) -> None:
        """Until this transaction ends nobody else signs with this key."""
        ...

    def take_nonce(self, lane: Account, transaction_id: int, chain_nonce: int, gas: int) -> int | None:
        """Give a queued transaction the lane's next nonce; None if another sender was faster."""
        ...

    def fill(self, lane: Account, nonce: int, gas: int) -> int | None:
        """Have a nonce used that nothing waits to use: by what of ours once had it, which is under way again
        and whose row id is None, or by a filler, which is still to be signed.
        """
        ...

    def add_attempt(self, transaction_id: int, attempt: TransactionAttempt) -> None: ...

    def mined(self, transaction_id: int, tx_hash: Hash32, block_number: int, block_hash: Hash32) -> None: ...

    def unmined(self, transaction_id: int) -> None:
        """Its block fell out of the chain."""
        ...

    def confirmed(self, transaction_id: int) -> None: ...

    def failed(self, transaction_id: int, error: Mapping[str, Any]) -> None: ...

    def requeue(self, transaction_id: int) -> None:
        """A foreign transaction used up its nonce: it can never be mined, so it is sent anew."""
        ...


class SenderTx(Protocol):
    @property
    def transactions(self) -> SendQueue: ...


class ChainView(Protocol):
    """Projections of events at N confirmations. Absent things are None."""

    def cursor(self) -> BlockRef | None:
        """Last block that is indexed."""
        ...

    def datanet(self, datanet: DatanetId) -> Datanet | None: ...

    def datanets(self) -> list[Datanet]: ...

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None: ...

    def contributions(self, datanet: DatanetId) -> list[Contribution]:
        """By rising index."""
        ...

    def withdrawn_contents(self) -> set[Hash32]:
        """Digests of the folders of which all contributions were taken back."""
        ...

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None: ...

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        """Who recorded contribution `index`; None outside the snapshot, also for what it does not accept."""
        ...

    def version(self, version: VersionId) -> VersionRecord | None: ...

    def registered_at(self, version: VersionId) -> int | None:
        """Unix seconds; None if it is not registered."""
        ...

    def registrations(self, versions: Collection[VersionId]) -> Mapping[VersionId, int]:
        """Likewise of many; what is not registered is missing."""
        ...

    def versions(self, creator: Account | None = None, name: str | None = None) -> list[RegisteredVersion]:
        """In order of registration."""
        ...

    def channel(self, channel: ChannelId) -> Channel | None: ...

    def channels(self, payer: Account | None = None, operator: Account | None = None) -> list[Channel]: ...

    def known_channels(self, channels: Collection[ChannelId]) -> Mapping[ChannelId, Channel]: ...

    def grants(self, channel: ChannelId) -> list[Grant]: ...

    def known_grants(self, channels: Collection[ChannelId]) -> Mapping[ChannelId, list[Grant]]: ...

    def parameter_set(self, number: int) -> ParameterSet | None: ...

    def latest_parameter_set(self) -> ParameterSet | None: ...

    def batches(self, operator: Account) -> list[CommittedBatch]:
        """All that were ever committed, voided ones included, in order of commitment."""
        ...

    def batch(self, batch_hash: Hash32) -> CommittedBatch | None: ...

    def spans(self, batch_hash: Hash32) -> tuple[PaidSpan, ...]:
        """What a batch collected, in its order: the preimage of its `spansHash`. Empty if it is unknown."""
        ...

    def settled(self, channel: ChannelId) -> int:
        """How far its line is collected by final batches: no refund takes that back."""
        ...

    def demands(self, batch_hash: Hash32) -> list[DemandStatus]:
        """All that were ever made of this batch, in their order."""
        ...

    def open_demands(self, operator: Account) -> list[DemandStatus]:
        """Those of this operator's pending batches that have unanswered keys; by rising deadline."""
        ...

    def answers(self, demand: Hash32) -> list[DemandAnswer]:
        """By rising place of the key."""
        ...

    def finalised(self, operator: Account) -> int:
        """Number of the newest final batch, 0 before the first."""
        ...

    def claims(self, account: Account) -> list[Claim]: ...

    def operator(self, operator: Account) -> Operator | None: ...

    def operators(self) -> list[Operator]: ...

    def proposal(self, proposal: int) -> Proposal | None: ...

    def proposals(self) -> list[Proposal]: ...


class ChainTx(Protocol):
    @property
    def chain(self) -> ChainView: ...
