"""Ports of the chain: contract calls, signers, the indexed view, and the tables of indexer and sender."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from backend.domain.ids import Account

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from backend.domain.chain import BlockRef, ChainEvent
    from backend.domain.channels import Channel, Grant
    from backend.domain.governance import Proposal
    from backend.domain.ids import ChannelId, DatanetId, Hash32, SnapshotId, VersionId
    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import Contribution, Datanet, Operator, RegisteredVersion, Snapshot
    from backend.domain.settlement import Claim, CommittedBatch, Demand, DemandAnswer, PaidSpan
    from backend.domain.transactions import (
        ChainTransaction,
        OpenTransaction,
        PreparedTransaction,
        TransactionAttempt,
    )


Recover = Callable[[bytes, str], Account]
"""`recover(digest, signature)`: account that signed the 32 bytes. `InvalidInput` for malformed or high-s
signatures.
"""


class Signer(Protocol):
    """Signs with one secp256k1 key."""

    @property
    def account(self) -> Account: ...

    def sign(self, digest: bytes) -> str:
        """Sign 32 bytes; 65 bytes r, s, v (27 or 28) as 0x-hex, s in the lower half."""
        ...


class TransactionSigner(Protocol):
    """Signs transactions with one secp256k1 key, held in memory or by a service, which may hash by itself."""

    @property
    def account(self) -> Account: ...

    def sign_message(self, message: bytes) -> str:
        """Sign the Keccak-256 hash of the message. Returns as `Signer.sign`. Errors: `Unavailable`."""
        ...


class SessionKeys(Protocol):
    """Encrypted store of the session keys that payers let this gateway hold."""

    def create(self) -> Account:
        """Create a random key and store it before returning its account."""
        ...

    def signer(self, key: Account) -> Signer | None:
        """Signer of the key; None if this installation does not hold it."""
        ...


class ContractWallets(Protocol):
    """Signature checks by contract wallets (EIP-1271)."""

    def accepts(self, account: Account, digest: bytes, signature: str) -> bool | None:
        """Whether the contract at `account` accepts this signature of the 32 bytes; None if there is no
        contract.

        Errors: `InvalidInput` if the signature is too long or no hex; `Unavailable`.
        """
        ...


class Chain(Protocol):
    """An EVM chain and the contracts of one deployment, by their names in `Deployment.addresses`."""

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
    """Our own transactions as `backend.chain.sender` uses them: `backend.chain` does not import `backend.db`.

    Lanes are keys; the transactions of a lane are sent in order.
    """

    def lanes(self) -> list[Account]:
        """Keys with transactions that are not over."""
        ...

    def first_queued(self, lane: Account) -> ChainTransaction | None:
        """The oldest, but relayed calls after the operator's own: anyone may have many of them relayed."""
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


class ChainView(Protocol):
    """Projections of events at N confirmations. Lookups return None for what is absent."""

    def cursor(self) -> BlockRef | None:
        """Last block that is indexed."""
        ...

    def datanet(self, datanet: DatanetId) -> Datanet | None: ...

    def datanets(self, after: int | None, limit: int) -> list[Datanet]:
        """Up to `limit` datanets in order of creation: those after datanet `after`. Errors: `InvalidInput` if
        there is no such datanet.
        """
        ...

    def datanet_folders(self, digests: Collection[Hash32]) -> set[Hash32]:
        """Those of these folders, by the digests of their CIDs, that a datanet names."""
        ...

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None:
        """The admitted contribution with the index."""
        ...

    def contribution_with(self, datanet: DatanetId, content_hash: Hash32) -> Contribution | None: ...

    def contributions_with(self, keys: Collection[tuple[DatanetId, Hash32]]) -> list[Contribution]:
        """Those with these datanets and content hashes, in any order."""
        ...

    def contributions(
        self, datanet: DatanetId, after: str | None = None, limit: int | None = None
    ) -> list[Contribution]:
        """Up to `limit` (None: all) of the datanet's contributions in order of recording, admitted or not:
        those after the content hash `after`. Errors: `InvalidInput` if it is of none of them.
        """
        ...

    def withdrawn_contributions(self) -> list[Contribution]:
        """Of all datanets. A contribution can name any folder."""
        ...

    def has_other_record(self, withdrawn: Contribution) -> bool:
        """Whether a contribution that is not withdrawn names the same content hash and folder."""
        ...

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None: ...

    def newest_snapshots(self, datanet: DatanetId, limit: int) -> list[Snapshot]:
        """Up to `limit` of the datanet's snapshots, newest first."""
        ...

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        """Contributor of the accepted contribution `index`; None if the snapshot does not accept it."""
        ...

    def version(self, version: VersionId) -> VersionRecord | None: ...

    def registered_at(self, version: VersionId) -> int | None:
        """Time of registration in unix seconds; None if the version is not registered."""
        ...

    def versions(
        self,
        creator: Account | None = None,
        name: str | None = None,
        adapter_digest: Hash32 | None = None,
        base_model: Hash32 | None = None,
    ) -> list[RegisteredVersion]:
        """Versions with these fields, in order of registration."""
        ...

    def channel(self, channel: ChannelId) -> Channel | None: ...

    def channels(self, payer: Account | None = None, operator: Account | None = None) -> list[Channel]: ...

    def known_channels(self, channels: Collection[ChannelId]) -> Mapping[ChannelId, Channel]: ...

    def grants(self, channel: ChannelId) -> list[Grant]: ...

    def known_grants(self, channels: Collection[ChannelId]) -> Mapping[ChannelId, list[Grant]]: ...

    def parameter_set(self, number: int) -> ParameterSet | None: ...

    def latest_parameter_set(self) -> ParameterSet | None: ...

    def batches(self, operator: Account) -> list[CommittedBatch]:
        """All batches of the operator, voided ones included, in order of commitment. They become more for as
        long as it serves: what requests and passes need is found by the methods below.
        """
        ...

    def recent_batches(self, operator: Account, after: str | None, limit: int) -> list[CommittedBatch]:
        """Up to `limit` of the operator's batches, voided ones included, newest first: those before the one
        with the hash `after`. Errors: `InvalidInput` if it is none of them.
        """
        ...

    def valid_batches(
        self, operator: Account, after: int = 0, until: int | None = None
    ) -> list[CommittedBatch]:
        """The operator's batches that are not void, with numbers above `after` and up to `until` (None: all),
        in order. They are numbered from 1 on without a gap.
        """
        ...

    def numbered_batch(self, operator: Account, number: int) -> CommittedBatch | None:
        """The operator's newest batch with this number: a void one only if none replaced it."""
        ...

    def void_batches(self, operator: Account) -> list[CommittedBatch]:
        """The operator's void batches, in order of commitment."""
        ...

    def valid_among(self, batches: Collection[Hash32]) -> set[Hash32]:
        """Those of these hashes that are of batches on the chain which are not void."""
        ...

    def open_batches(self, operator: Account) -> list[CommittedBatch]:
        """The operator's batches that are neither final nor void, in order of commitment."""
        ...

    def open_totals(self, operators: Collection[Account]) -> Mapping[Account, int]:
        """Micro-units of each operator's open batches; operators without any are absent."""
        ...

    def batch(self, batch_hash: Hash32) -> CommittedBatch | None: ...

    def spans(self, batch_hash: Hash32) -> tuple[PaidSpan, ...]:
        """Spans that a batch collected, in its order (the preimage of `spansHash`); empty for an unknown
        batch.
        """
        ...

    def settled(self, channel: ChannelId) -> int:
        """Cumulative collected by final batches, which no refund reverts."""
        ...

    def demands(self, *batches: Hash32) -> list[Demand]:
        """All demands for leaves of these batches, in order."""
        ...

    def open_demands(self, operator: Account) -> list[Demand]:
        """Unanswered demands for leaves of this operator's pending batches, by rising deadline."""
        ...

    def answers(self, batch_hash: Hash32) -> list[DemandAnswer]:
        """Answers to demands for leaves of this batch, in order."""
        ...

    def finalised(self, operator: Account) -> int:
        """Number of the newest final batch, 0 before the first."""
        ...

    def claims(self, account: Account) -> list[Claim]: ...

    def claimed(self, operator: Account) -> dict[Account, int]:
        """Micro-units that each account claimed from the operator so far."""
        ...

    def operator(self, operator: Account) -> Operator | None: ...

    def keys_at(self, operator: Account, block_number: int) -> list[Account]:
        """Receipt keys that were registered up to this block, those retired by now included."""
        ...

    def reachable_operators(self) -> list[Operator]:
        """Operators with a URL, and with a stake or a batch, in order of registration. Anyone can register
        without either, and give any address a stake.
        """
        ...

    def newest_batches(self) -> dict[Account, Hash32]:
        """The operators that ever committed a batch, in the order of their first, each with the hash of its
        newest, which may be void. Only these have anything to audit or to claim.
        """
        ...

    def operators_after(self, after: str | None, limit: int) -> list[Operator]:
        """Up to `limit` operators in order of registration: those after account `after`. Errors:
        `InvalidInput` if it is none of them.
        """
        ...

    def proposal(self, proposal: int) -> Proposal | None: ...

    def proposals(self, after: str | None, limit: int, *, is_newest_first: bool = False) -> list[Proposal]:
        """Up to `limit` proposals, oldest or newest first: those that follow the one with the id `after`.
        Errors: `InvalidInput` if there is no such proposal.
        """
        ...
