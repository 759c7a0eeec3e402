"""Contribution services on a real database and block store; the test writes the chain's records."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eth_account.messages import encode_typed_data

from backend.chain.keys import local_account, recover
from backend.db.tables.chain import CheckpointRow, ContributionRow, DatanetRow, SnapshotRow
from backend.db.tables.transactions import TransactionRow
from backend.domain.chain import BlockRef
from backend.domain.content import cid_digest
from backend.domain.contribution import PersonalKind
from backend.domain.hashing import accepted_hash, keccak, licence_word, snapshot_id
from backend.domain.ids import Account, DatanetId, Hash32
from backend.domain.money import GWEI
from backend.domain.transactions import PreparedTransaction, TransactionState
from backend.services.background import Background
from backend.services.contribute.check_upload import UploadCheck
from backend.services.contribute.contributions import Contributions
from backend.services.contribute.curate import Curation
from backend.services.contribute.snapshot import Snapshots
from backend.services.contribute.staging import Staging
from backend.services.contribute.terms import DatanetTerms
from backend.services.transactions.consent import Consent
from backend.storage.embedded import EmbeddedStore
from tests.support.fakes import FakeContractWallets
from tests.support.market import some_hash
from tests.support.relays import relays_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.contribution import Upload
    from backend.domain.ids import Cid, SnapshotId

OPERATOR = local_account(1)
ALICE, BOB = local_account(3), local_account(4)
REGISTRY = Account("0x" + "d5" * 20)
NET = DatanetId(1)
MAX_BYTES = 100_000
REFUSED = frozenset({PersonalKind.CREDIT_CARD, PersonalKind.IBAN_CODE})
ROWS = b'{"prompt": "What is a?", "completion": "A letter."}\n{"prompt": "b?", "completion": "Another."}\n'


def jsonl(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def sign(contributions: Contributions, upload: Upload, signer: Any) -> str:
    """Sign from the typed data alone, as the contributor's wallet does."""
    message = encode_typed_data(full_message=contributions.typed_data(upload.id))
    signature: str = signer.sign(keccak(b"\x19" + message.version + message.header + message.body))
    return signature


def count_words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


@dataclass
class FakeChain:
    """Implements the part of `backend.ports.chain.Chain` that contributions use."""

    nonces: dict[str, int] = field(default_factory=dict)
    chain_id: int = 31337
    timestamp: int = 0
    preview: tuple[Any, Any] = ("", "")
    simulated: list[Any] = field(default_factory=list)

    def head(self) -> BlockRef:
        block = Hash32("0x" + "00" * 32)
        return BlockRef(1, block, block, self.timestamp)

    def address(self, contract: str) -> Account:
        assert contract == "DatasetRegistry"
        return REGISTRY

    def gas_price(self) -> int:
        return GWEI

    def prepare(
        self, contract: str, function: str, *args: Any, sender: Account | None = None
    ) -> PreparedTransaction:
        self.simulated.append(args)
        return PreparedTransaction(self.chain_id, self.address(contract), "0x", 0, {"args": args}, 200_000)

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        if function == "previewSnapshot":
            return self.preview
        assert (contract, function) == ("DatasetRegistry", "nonces")
        return self.nonces.get(args[0], 0)


class ContributionHarness:
    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.now = 1_800_000_000.0
        self.chain = FakeChain()
        self.store = EmbeddedStore(folder / "ipfs", is_durable=False)
        self.elsewhere = EmbeddedStore(folder / "elsewhere", is_durable=False)
        """The store of another operator, which serves it."""
        self.staging = Staging(folder / "uploads", MAX_BYTES)
        self.relays = relays_of(database, self.chain, OPERATOR.account)  # type: ignore[arg-type]
        check = UploadCheck(database, self.staging, count_words, REFUSED)
        parts = (
            self.store,
            self.chain,
            Consent(recover, FakeContractWallets()),
            check,
            self.relays,
            DatanetTerms(self.store, self._fetch, Background(wait_seconds=60)),
            lambda: self.now,
        )
        self.contributions = Contributions(database, *parts)  # type: ignore[arg-type]
        self.curation = Curation(database, self.store, self.staging, OPERATOR.account, lambda: self.now)
        data = (self.store, self.chain, self.relays, folder)
        self.snapshots = Snapshots(database, *data)  # type: ignore[arg-type]
        self._about = self.store.add_folder({"README.md": b"# Letters"})
        about = cid_digest(self._about)
        self._add(DatanetRow(id=NET, creator=OPERATOR.account, name="docs", cid_digest=about))

    def _fetch(self, cid: Cid, _max_bytes: int, _first: Account | None = None) -> None:
        if self.elsewhere.has(cid):
            self.store.add_copy(cid, self.elsewhere.car(cid))

    @property
    def published(self) -> list[Cid]:
        """The folders that are stored, without the datanet's."""
        return [cid for cid in self.store.pins() if cid != self._about]

    def upload(
        self,
        content: bytes | Iterable[bytes] = ROWS,
        signer: Any = ALICE,
        licence: str = "MIT",
        *,
        accepts_partial: bool = False,
    ) -> Upload:
        stream = [content] if isinstance(content, bytes) else content
        return self.contributions.upload(
            signer.account, NET, "letters", stream, licence, accepts_partial=accepts_partial
        )

    def sign(self, upload: Upload, signer: Any = ALICE) -> str:
        return sign(self.contributions, upload, signer)

    def submit(self, content: bytes = ROWS, signer: Any = ALICE) -> Upload:
        upload = self.upload(content, signer)
        return self.contributions.submit(upload.id, self.sign(upload, signer))

    def record(
        self,
        upload: Upload,
        index: int | None = 0,
        *,
        is_accepted: bool | None = None,
        reason: int = 0,
        cid: Cid | None = None,
    ) -> None:
        """Index the contribution's record, or the decision on it. `cid`: the folder it names, if another."""
        report = upload.report
        folder = cid or report.cid
        assert folder is not None
        row = ContributionRow(
            datanet=upload.datanet,
            index=index,
            contributor=upload.account,
            content_hash=report.content_hash,
            cid_digest=cid_digest(folder),
            licence=licence_word(report.licence),
            num_rows=report.num_rows,
            is_accepted=is_accepted,
            reason=reason,
            recorded_at=1,
        )
        self._add(row)
        self.chain.nonces[upload.account] = self.chain.nonces.get(upload.account, 0) + 1

    def forget(self, upload: Upload) -> None:
        """Remove the record, as a reorganisation does."""
        with self.database.begin() as tx:
            row = tx.session.get(ContributionRow, (NET, upload.report.content_hash))
            tx.session.delete(row)

    def freeze(self, *accepted: bool) -> SnapshotId:
        digest = accepted_hash(accepted)
        frozen = snapshot_id(NET, len(accepted), digest)
        words = sum(1 << i for i, bit in enumerate(accepted) if bit).to_bytes(32, "big")
        self._add(
            SnapshotRow(
                id=frozen, datanet=NET, count=len(accepted), accepted_hash=digest, accepted="0x" + words.hex()
            )
        )
        return frozen

    def fail(self, transaction_id: int | None, error: str = "ContentAlreadyRecorded") -> None:
        """Mark the transaction as reverted."""
        with self.database.begin() as tx:
            row = tx.session.get_one(TransactionRow, transaction_id)
            row.state, row.error = TransactionState.FAILED, {"error": error, "message": error, "args": {}}

    def confirm(self, block: int) -> None:
        """Mark all transactions as confirmed by this block, up to which the chain is indexed then."""
        head = some_hash(f"block {block}")
        with self.database.begin() as tx:
            for row in tx.session.query(TransactionRow).filter_by(state=TransactionState.QUEUED):
                row.state, row.block_number, row.block_hash = TransactionState.CONFIRMED, block, head
            tx.session.add(CheckpointRow(number=block, hash=head, parent_hash=head, timestamp=0))

    def queued(self) -> list[tuple[str, tuple[Any, ...]]]:
        with self.database.begin() as tx:
            rows = tx.session.query(TransactionRow).order_by(TransactionRow.id)
            return [(row.function, tuple(row.args)) for row in rows]

    def _add(self, row: Any) -> None:
        with self.database.begin() as tx:
            row.block_number, row.log_index = 1, 0
            tx.session.merge(row)
