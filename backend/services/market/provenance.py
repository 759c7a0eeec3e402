"""Registration times and licences of versions, as far as the chain and this installation know them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.hashing import licence_text
from backend.services.contribute.licences import UnknownLicence, parse_licence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Hash32, SnapshotId, VersionId
    from backend.ports.chain import ChainView
    from backend.services.market.catalogue import Model


@dataclass(frozen=True, slots=True)
class Provenance:
    """`registered_at`: unix seconds of the registration's block, 0 for the base model, which precedes all
    registrations. `licence`: SPDX expression, None if it is not known here.
    """

    registered_at: int = 0
    licence: str | None = None


class ProvenanceLookup:
    def __init__(self, db: Database) -> None:
        self._db = db
        # Snapshots never change, and neither do their licences: each is read once.
        self._licences: dict[tuple[SnapshotId, ...], str | None] = {}

    def of(self, models: Sequence[Model]) -> dict[VersionId, Provenance]:
        """Provenance of each version. An imported adapter has the licence that its creator stated at this
        installation; an adapter trained on snapshots has the conjunction of their contributions' licences.
        """
        adapters = {model.id: model.record.snapshots for model in models if not model.is_base}
        with self._db.read() as tx:
            registered = tx.chain.registrations(adapters)
            stated = tx.training.stated_licences([v for v, snapshots in adapters.items() if not snapshots])
            known = {v: self._of_snapshots(tx.chain, snapshots) for v, snapshots in adapters.items()}
        found = {v: Provenance(registered.get(v, 0), stated.get(v, known[v])) for v in adapters}
        return {model.id: Provenance() for model in models} | found

    def _of_snapshots(self, chain: ChainView, snapshots: tuple[SnapshotId, ...]) -> str | None:
        if snapshots not in self._licences:
            licences = {word for snapshot in snapshots for word in _words(chain, snapshot)}
            self._licences[snapshots] = _conjunction(licences)
        return self._licences[snapshots]


def _words(chain: ChainView, snapshot_id: SnapshotId) -> set[Hash32]:
    """Licence words of the snapshot's accepted contributions."""
    snapshot = chain.snapshot(snapshot_id)
    if snapshot is None:
        return set()
    accepted = set(snapshot.accepted)
    return {c.licence for c in chain.contributions(snapshot.datanet) if c.index in accepted}


def _conjunction(words: set[Hash32]) -> str | None:
    """None if one of them is too long for a word or no SPDX expression: the contract checks neither."""
    texts = [licence_text(word) for word in sorted(words)]
    if not texts or None in texts:
        return None
    try:
        each = sorted({parse_licence(text) for text in texts if text is not None})
        return parse_licence(" AND ".join(f"({expression})" for expression in each))
    except UnknownLicence:
        return None
