"""The chain as services see it: a client to ask and prepare, a queue to send, a view made from events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.chain import (
        BlockRef,
        ChainTransaction,
        Channel,
        Claim,
        CommittedBatch,
        Contribution,
        Datanet,
        Grant,
        ParameterSet,
        PreparedTransaction,
        Proposal,
        RegisteredVersion,
        Snapshot,
    )
    from backend.domain.ids import Account, ChannelId, DatanetId, SnapshotId, VersionId
    from backend.domain.receipt import VersionRecord


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


class Chain(Protocol):
    """One EVM chain and the contracts of one deployment, named as in `Deployment.addresses`."""

    @property
    def chain_id(self) -> int: ...

    def address(self, contract: str) -> Account: ...

    def head(self) -> BlockRef: ...

    def block(self, number: int) -> BlockRef | None:
        """None above the head."""
        ...

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        """Read. Bytes come back as 0x-hex, addresses in lower case, structs as dicts. Raises `Reverted`."""
        ...

    def prepare(
        self, contract: str, function: str, *args: Any, sender: Account | None = None, value: int = 0
    ) -> PreparedTransaction:
        """Encode a call for somebody to sign; with `sender`: simulated (`Reverted`), its gas estimated."""
        ...


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

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None: ...

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        """Who recorded contribution `index` of the snapshot's datanet; None outside the snapshot."""
        ...

    def version(self, version: VersionId) -> VersionRecord | None: ...

    def versions(self, creator: Account | None = None, name: str | None = None) -> list[RegisteredVersion]:
        """In order of registration."""
        ...

    def channel(self, channel: ChannelId) -> Channel | None: ...

    def channels(self, payer: Account | None = None, operator: Account | None = None) -> list[Channel]: ...

    def grants(self, channel: ChannelId) -> list[Grant]: ...

    def parameter_set(self, number: int) -> ParameterSet | None: ...

    def latest_parameter_set(self) -> ParameterSet | None: ...

    def batches(self, operator: Account) -> list[CommittedBatch]:
        """All that were ever committed, voided ones included, in order of commitment."""
        ...

    def finalised(self, operator: Account) -> int:
        """Number of the newest final batch, 0 before the first."""
        ...

    def claims(self, account: Account) -> list[Claim]: ...

    def proposals(self) -> list[Proposal]: ...
