"""Port of what the indexed events say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from backend.domain.chain import BlockRef
    from backend.domain.channels import Channel, Grant
    from backend.domain.governance import Proposal
    from backend.domain.ids import Account, ChannelId, DatanetId, Hash32, SnapshotId, VersionId
    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import Contribution, Datanet, Operator, RegisteredVersion, Snapshot
    from backend.domain.settlement import Claim, CommittedBatch, Demand, DemandAnswer, PaidSpan


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
