"""Denials: adapters, datanets, payers and contents that this operator does not serve, and its floor price.

A denial applies from the next request on; running answers complete. Settlement and claims ignore denials: a
served answer is paid for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.domain.adapter_files import CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE
from backend.domain.content import (
    ContentCorrupt,
    ContentMissing,
    ContentUnsafe,
    cid_digest,
    cid_of,
    decode_cid,
)
from backend.domain.denials import (
    ContentWithheld,
    Denial,
    Denied,
    ModelDenied,
    ModelWithheld,
    PayerDenied,
    Reason,
    Subject,
)
from backend.domain.errors import NotFound
from backend.domain.ids import ZERO_HASH, Hash32
from backend.domain.streams import at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.catalogue import ListedVersion
    from backend.domain.denials import FloorPrice
    from backend.domain.ids import Account, Cid, DatanetId
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import Snapshot
    from backend.ports.chain_view import ChainView
    from backend.ports.storage import BlobStore
    from backend.services.market.adapter_folders import AdapterFolders


@dataclass(frozen=True, slots=True)
class Takedown:
    """A takedown, and the reservations of answers that may still use the adapter."""

    adapter: Hash32
    reason: Reason
    contents: tuple[Cid, ...]
    """Folders with its weights that were stored or cached here."""
    others: tuple[Cid, ...]
    """Stored folders that are registered under its digest and stay: with other content, or unreadable."""
    running: frozenset[str]


class Denials:
    """`digest_of` is an adapter's digest, in hex digits, by its configuration and chunks of its weights. It
    raises `ValueError` for an invalid configuration.
    """

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        folders: AdapterFolders,
        digest_of: Callable[[bytes, Iterable[bytes]], str],
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._blobs, self._folders = blobs, folders
        self._digest_of, self._clock = digest_of, clock
        self._denied_blocks: dict[Cid, frozenset[bytes]] = {}
        """Digests of the blocks of denied folders that are stored here, by the folder."""

    def list(self) -> Sequence[Denial]:
        with self._db.read() as tx:
            return tx.denials.all()

    def deny(self, subject: Subject, reason: Reason) -> Denial:
        """Deny a subject from the next request on."""
        denial = Denial(subject, reason, self._clock())
        with self._db.begin() as tx:
            tx.denials.put(denial)
        return denial

    def allow(self, subject: Subject) -> None:
        """Remove a denial. Errors: `NotFound`."""
        with self._db.begin() as tx:
            if not tx.denials.remove(subject):
                raise NotFound(f"{subject.kind} {subject.id} is not denied.", param="subject")

    def floor(self) -> FloorPrice:
        with self._db.read() as tx:
            return tx.denials.floor()

    def set_floor(self, floor: FloorPrice) -> None:
        """Set the floor price; versions below it are not served from the next request on."""
        with self._db.begin() as tx:
            tx.denials.set_floor(floor)

    def take_down(self, record: VersionRecord, reason: Reason) -> Takedown:
        """Deny the version's weights under any name, and deny and remove every stored folder with them. Other
        folders stay: anyone can register any, such as the data of a batch, under the digest.

        May be repeated, and must be after a crash, which may leave blocks in the store.
        """
        if record.adapter_digest == ZERO_HASH:
            raise NotFound("The base model has no adapter to take down.", param="model")
        now = self._clock()
        with self._db.begin() as tx:
            tx.denials.put(Denial(Subject(Denied.ADAPTER, record.adapter_digest), reason, now))
            running = tx.channels.reserved(now)
        contents, others = self._delete_stored(record.adapter_digest, reason)
        return Takedown(record.adapter_digest, reason, contents, others, running)

    def drop_folders(self, takedown: Takedown) -> bool:
        """Delete the cached folders once the running answers have ended; returns whether it did."""
        now = self._clock()
        with self._db.read() as tx:
            if takedown.running & tx.channels.reserved(now):
                return False
        # Answers that ran may have fetched folders since the takedown.
        fetched, _ = self._delete_stored(takedown.adapter, takedown.reason)
        for cid in {*takedown.contents, *fetched}:
            self._folders.drop(cid)
        self._folders.drop_exports(takedown.adapter)
        return True

    def _delete_stored(self, adapter: Hash32, reason: Reason) -> tuple[tuple[Cid, ...], tuple[Cid, ...]]:
        """Deny the adapter's folders and delete them from the store, those of jobs that are not registered
        too. Returns them, cached ones included, and the stored folders that are registered under its digest
        and are not it.
        """
        with self._db.read() as tx:
            versions = tx.chain.versions(adapter_digest=adapter)
            of_jobs = tx.training.folders_of(adapter)
        named = sorted({cid_of(version.record.cid_digest) for version in versions} | of_jobs)
        contents = tuple(cid for cid in named if self._has_weights(cid, adapter))
        others = tuple(cid for cid in named if cid not in contents and self._blobs.has(cid))
        with self._db.begin() as tx:
            for cid in contents:
                tx.denials.put(Denial(Subject(Denied.CONTENT, cid_digest(cid)), reason, self._clock()))
        self._blobs.forget(*contents)
        return contents, others

    def _has_weights(self, cid: Cid, adapter: Hash32) -> bool:
        """Whether the folder is this adapter's, as it is stored or, after a crash, only cached here."""
        is_stored = self._blobs.has(cid) and self._digest(cid, self._blobs.open) == adapter
        return is_stored or self._digest(cid, self._folders.open) == adapter

    def _digest(self, cid: Cid, open_file: Callable[[Cid, str], Iterator[bytes]]) -> str | None:
        """Digest of the adapter in a folder; None if it is none that can be read."""
        try:
            # A few crafted blocks can stand for an endless file.
            too_large = ContentUnsafe("the file is larger than an adapter's")
            config, weights = (
                at_most(MAX_BYTES[name], open_file(cid, name), too_large)
                for name in (CONFIG_FILE, WEIGHTS_FILE)
            )
            return "0x" + self._digest_of(b"".join(config), weights)
        except (ContentMissing, ContentCorrupt, ContentUnsafe, ValueError):
            return None

    def why_withheld(self, cid: Cid, datanet: DatanetId | None = None) -> Reason | None:
        """Why content is not shown: it is denied, or the datanet that it belongs to. None if neither is."""
        subjects = [Subject(Denied.CONTENT, f"0x{decode_cid(cid).digest.hex()}")]
        if datanet is not None:
            subjects.append(Subject(Denied.DATANET, str(datanet)))
        with self._db.read() as tx:
            denials = tx.denials.find(subjects)
        return denials[0].reason if denials else None

    def check_content(self, cid: Cid, datanet: DatanetId | None = None) -> None:
        """Raise `ContentWithheld` if `why_withheld` has a reason."""
        if (reason := self.why_withheld(cid, datanet)) is not None:
            raise _withheld(cid, reason)

    def check_block(self, cid: Cid) -> None:
        """Raise `ContentWithheld` if the block belongs to denied content that is stored here.

        Digests decide: a store finds a block under any codec.
        """
        digest = decode_cid(cid).digest
        with self._db.read() as tx:
            denials = [one for one in tx.denials.all() if one.subject.kind is Denied.CONTENT]
        for denial in denials:
            if digest in self._blocks_of(cid_of(Hash32(denial.subject.id))):
                raise _withheld(cid, denial.reason)

    def _blocks_of(self, folder: Cid) -> frozenset[bytes]:
        if folder not in self._denied_blocks:
            if not self._blobs.has(folder):
                return frozenset({decode_cid(folder).digest})
            blocks = self._blobs.cids(folder)
            self._denied_blocks[folder] = frozenset(decode_cid(block).digest for block in blocks)
        return self._denied_blocks[folder]


def _withheld(cid: Cid, reason: Reason) -> ContentWithheld:
    return ContentWithheld(f"{cid} is not served here: {reason}.", "cid", {"reason": reason})


def check_trainable(tx: UnitOfWork, snapshot: Snapshot) -> None:
    """Raise `ContentWithheld` if the snapshot's datanet or a content that it accepts is denied: its rows are
    not shown, and adapters that are trained on it are not served.
    """
    denials = tx.denials.all()
    if not denials:
        return
    accepted = set(snapshot.accepted)
    contributions = (one for one in tx.chain.contributions(snapshot.datanet) if one.index in accepted)
    subjects = {Subject(Denied.CONTENT, one.cid_digest) for one in contributions}
    subjects.add(Subject(Denied.DATANET, str(snapshot.datanet)))
    for denial in denials:
        if denial.subject in subjects:
            what = f"{denial.subject.kind} {denial.subject.id}"
            raise ContentWithheld(
                f"This operator does not train on the snapshot because of its {what}: {denial.reason}.",
                "snapshot_id",
                {"reason": denial.reason, denial.subject.kind.value: denial.subject.id},
            )


def without_denied_cards(tx: UnitOfWork, found: Sequence[ListedVersion]) -> list[ListedVersion]:
    """The versions, without the cards whose folders are denied."""
    folders = {Subject(Denied.CONTENT, one.version.record.cid_digest) for one in found}
    denied = {Hash32(denial.subject.id) for denial in tx.denials.find(folders)}
    return [
        replace(one, description=replace(one.description, card=None))
        if one.version.record.cid_digest in denied
        else one
        for one in found
    ]


def check_adapter(tx: UnitOfWork, adapter: Hash32, param: str) -> None:
    """Raise `ModelDenied` or `ModelWithheld` if the adapter is denied: it is not fetched, continued from or
    published.
    """
    _refuse(tx, [Subject(Denied.ADAPTER, adapter)], param)


def check_answerable(tx: UnitOfWork, record: VersionRecord, payer: Account | None) -> None:
    """Raise `ModelDenied`, `ModelWithheld` or `PayerDenied` if the version is not served to the payer."""
    payers = [] if payer is None else [Subject(Denied.PAYER, payer)]
    _refuse(tx, [*_subjects(tx.chain, record), *payers], "model")


def _refuse(tx: UnitOfWork, subjects: Sequence[Subject], param: str) -> None:
    for denial in tx.denials.find(subjects):
        subject, details = denial.subject, {"reason": denial.reason.value}
        if subject.kind is Denied.PAYER:
            raise PayerDenied(f"Payer {subject.id} is not served here: {denial.reason}.", None, details)
        kind = ModelWithheld if denial.reason.is_legal else ModelDenied
        text = f"The model is not served here because of its {subject.kind} {subject.id}: {denial.reason}."
        raise kind(text, param, details | {subject.kind.value: subject.id})


def _subjects(chain: ChainView, record: VersionRecord) -> list[Subject]:
    snapshots = (chain.snapshot(snapshot) for snapshot in record.snapshots)
    datanets = [Subject(Denied.DATANET, str(found.datanet)) for found in snapshots if found is not None]
    return [Subject(Denied.ADAPTER, record.adapter_digest), *datanets]
