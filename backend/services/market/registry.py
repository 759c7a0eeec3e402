"""Registries of datanets and versions: lookups, and transactions prepared for creators' wallets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.domain.content import cid_digest
from backend.domain.contribution import decision
from backend.domain.errors import Forbidden, InvalidInput, NotFound
from backend.domain.hashing import ascii_word, record_argument, to_hash
from backend.domain.receipt import check_name
from backend.domain.settlement import BatchState
from backend.domain.transactions import TransactionState
from backend.services.contribute.published import DESCRIPTION_FILE, MAX_DESCRIPTION_BYTES
from backend.services.contribute.terms import TERMS_FILE, terms_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.chain import BlockRef
    from backend.domain.contribution import ReviewReason
    from backend.domain.ids import Account, DatanetId, Hash32, VersionId
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import Contribution, Datanet
    from backend.domain.settlement import CommittedBatch, Demand
    from backend.domain.transactions import ChainTransaction, PreparedTransaction
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.services.market.datanet_folders import DatanetFolders

DATASETS = "DatasetRegistry"
ADAPTERS = "AdapterRegistry"
ACCESS = "AccessManager"
CURATOR_ROLE = 2


@dataclass(frozen=True, slots=True)
class ListedBatch:
    batch: CommittedBatch
    open_demands: tuple[Demand, ...]
    """Unanswered demands, which keep the batch from becoming final; the most urgent first."""


class Registry:
    def __init__(self, db: Database, chain: Chain, folders: DatanetFolders) -> None:
        self._db = db
        self._chain = chain
        self._folders = folders

    def datanets(self, after: int | None, limit: int) -> list[Datanet]:
        """Up to `limit` datanets after datanet `after`, oldest first. Errors: `InvalidInput`."""
        with self._db.read() as tx:
            return tx.chain.datanets(after, limit)

    def datanet(self, datanet: DatanetId) -> Datanet:
        with self._db.read() as tx:
            found = tx.chain.datanet(datanet)
        if found is None:
            raise NotFound(f"No datanet {datanet}.", param="datanet")
        return found

    def own_datanet(self, creator: Account, datanet: DatanetId) -> Datanet:
        """A datanet of `creator`: the operator pays for its snapshots. Raises NotFound, and Forbidden for
        others.
        """
        found = self.datanet(datanet)
        if found.creator != creator:
            raise Forbidden(
                f"Only {found.creator}, who created datanet {datanet}, may have it frozen at the operator's "
                f"cost; any wallet may send {DATASETS}.freeze itself.",
                param="datanet",
            )
        return found

    def contributions(self, datanet: DatanetId, after: str | None, limit: int) -> list[Contribution]:
        """Up to `limit` of the datanet's contributions in order of recording: those after the content hash
        `after`. Errors: `NotFound`, `InvalidInput`.
        """
        self.datanet(datanet)
        with self._db.read() as tx:
            return tx.chain.contributions(datanet, after, limit)

    def contribution(self, datanet: DatanetId, content_hash: Hash32) -> Contribution:
        """A recorded contribution. Errors: `NotFound`."""
        with self._db.read() as tx:
            found = tx.chain.contribution_with(datanet, content_hash)
        if found is None:
            raise NotFound(f"Datanet {datanet} has no contribution {content_hash}.", param="content_hash")
        return found

    def is_curator(self, account: Account) -> bool:
        """Whether the registry lets the account review contributions now."""
        is_member, _delay = self._chain.call(ACCESS, "hasRole", CURATOR_ROLE, account)
        return bool(is_member)

    def prepare_review(
        self, curator: Account, datanet: DatanetId, content_hash: Hash32, reason: ReviewReason
    ) -> PreparedTransaction:
        """Accept a recorded contribution, or reject it if there is a `reason`; a later decision replaces it.

        The first acceptance gives it its index. Raises NotFound, and Reverted if `curator` is not a curator.
        """
        found = self.contribution(datanet, content_hash)
        reviews = [decision(found.content_hash, reason)]
        return self._chain.prepare(DATASETS, "review", str(datanet), reviews, sender=curator)

    def batches(self, operator: Account, after: str | None, limit: int) -> list[ListedBatch]:
        """Up to `limit` batches of the operator, voided ones included, newest first: those before the one
        with the hash `after`. Empty for an unknown operator. Errors: `InvalidInput` if it is none of them.
        """
        with self._db.read() as tx:
            return _listed(tx.chain, tx.chain.recent_batches(operator, after, limit))

    def open_batches(self, operator: Account) -> list[ListedBatch]:
        """The operator's batches that are neither final nor void, newest first."""
        with self._db.read() as tx:
            return _listed(tx.chain, tx.chain.open_batches(operator)[::-1])

    def open_totals(self, operators: Collection[Account]) -> Mapping[Account, int]:
        """Micro-units of each operator's batches that are neither final nor void."""
        with self._db.read() as tx:
            return tx.chain.open_totals(operators)

    def transaction(self, transaction_id: int, account: Account) -> ChainTransaction:
        """A transaction sent for the account. Raises NotFound, also for those of other accounts: queued and
        failed transactions are not public. It is confirmed once everything else here shows its effects.
        """
        with self._db.read() as tx:
            if not tx.transactions.is_requested(account, transaction_id):
                raise NotFound(
                    f"No transaction {transaction_id} was sent for this account.", param="transaction_id"
                )
            return _as_indexed(tx.transactions.get(transaction_id), tx.chain.cursor())

    def transactions(self, account: Account, before: int | None, limit: int) -> Sequence[ChainTransaction]:
        """Transactions sent for the account, as `transaction` returns them, newest first, with an id below
        `before`.
        """
        with self._db.read() as tx:
            cursor = tx.chain.cursor()
            return [_as_indexed(one, cursor) for one in tx.transactions.requested(account, before, limit)]

    def sent_by_wallet(self, tx_hash: Hash32) -> TransactionState:
        """State of a transaction that a wallet sent itself; sent also if the node does not know it (yet)."""
        outcome = self._chain.outcome(tx_hash)
        if outcome is None:
            return TransactionState.SENT
        block_number, is_success = outcome
        if not is_success:
            return TransactionState.FAILED
        with self._db.read() as tx:
            cursor = tx.chain.cursor()
        is_indexed = cursor is not None and cursor.number >= block_number
        return TransactionState.CONFIRMED if is_indexed else TransactionState.MINED

    def prepare_datanet(
        self, creator: Account, name: str, description: str, licence: str = ""
    ) -> PreparedTransaction:
        """Publish a folder with the description (`README.md`) and the accepted licences, and prepare the
        datanet. The folder is deleted if no datanet names it a day later.

        `licence`: SPDX expression of the accepted licences; empty: any. Raises UnknownLicence, DiskFull and
        Unavailable.
        """
        raw = description.encode()
        if len(raw) > MAX_DESCRIPTION_BYTES:
            raise InvalidInput(
                f"The description is longer than {MAX_DESCRIPTION_BYTES} bytes.", param="description"
            )
        check_name(name)
        terms = {TERMS_FILE: terms_file(licence)} if licence else {}
        files = {DESCRIPTION_FILE: raw, **terms}
        digest = cid_digest(self._folders.cid(files))
        prepared = self._chain.prepare(
            DATASETS, "createDatanet", to_hash(ascii_word(name)), digest, sender=creator
        )
        self._folders.publish(files)
        return prepared

    def version(self, version: VersionId) -> VersionRecord:
        """The record of a registered version. Errors: `NotFound`."""
        with self._db.read() as tx:
            found = tx.chain.version(version)
        if found is None:
            raise NotFound(f"No version {version}.", param="version")
        return found

    def prepare_version(self, record: VersionRecord) -> PreparedTransaction:
        """Prepare the registration by its creator. Raises Reverted with the registry's reason."""
        check_name(record.name)
        return self._chain.prepare(ADAPTERS, "register", record_argument(record), sender=record.creator)

    def prepare_deprecation(self, record: VersionRecord) -> PreparedTransaction:
        check_name(record.name)
        return self._chain.prepare(ADAPTERS, "deprecate", record_argument(record), sender=record.creator)


def _listed(chain: ChainView, batches: Sequence[CommittedBatch]) -> list[ListedBatch]:
    pending = [batch.hash for batch in batches if batch.state is BatchState.COMMITTED]
    demands = sorted((one for one in chain.demands(*pending) if one.is_open), key=lambda one: one.deadline)
    return [
        ListedBatch(batch, tuple(one for one in demands if one.batch_hash == batch.hash)) for batch in batches
    ]


def _as_indexed(transaction: ChainTransaction, cursor: BlockRef | None) -> ChainTransaction:
    """Confirmed transactions count as mined until their block is indexed: the sender may be ahead."""
    is_confirmed = transaction.state is TransactionState.CONFIRMED
    indexed = -1 if cursor is None else cursor.number
    if not is_confirmed or transaction.block_number is None or transaction.block_number <= indexed:
        return transaction
    return replace(transaction, state=TransactionState.MINED)
