"""Since when versions are there, and under which licence, as far as chain and this installation tell."""

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
class Origin:
    """`registered_at`: unix seconds of the registration's block, 0 for the base model, which was there before
    any. `licence`: SPDX expression, None where it is not known here.
    """

    registered_at: int = 0
    licence: str | None = None


class Origins:
    def __init__(self, db: Database) -> None:
        self._db = db
        # Snapshots are frozen, and so are the licences in them: each is looked at once.
        self._licences: dict[tuple[SnapshotId, ...], str | None] = {}

    def of(self, models: Sequence[Model]) -> dict[VersionId, Origin]:
        """An adapter from elsewhere has the licence that its creator stated here; what was trained on
        snapshots has those of all their contributions at once.
        """
        adapters = {model.id: model.record.snapshots for model in models if not model.is_base}
        with self._db.read() as tx:
            registered = tx.chain.registrations(adapters)
            stated = tx.training.stated_licences([v for v, snapshots in adapters.items() if not snapshots])
            known = {v: self._of_snapshots(tx.chain, snapshots) for v, snapshots in adapters.items()}
        found = {v: Origin(registered.get(v, 0), stated.get(v, known[v])) for v in adapters}
        return {model.id: Origin() for model in models} | found

    def _of_snapshots(self, chain: ChainView, snapshots: tuple[SnapshotId, ...]) -> str | None:
        if snapshots not in self._licences:
            words = {word for snapshot in snapshots for word in _words(chain, snapshot)}
            self._licences[snapshots] = _together(words)
        return self._licences[snapshots]


def _words(chain: ChainView, snapshot_id: SnapshotId) -> set[Hash32]:
    """As the chain has them."""
    snapshot = chain.snapshot(snapshot_id)
    if snapshot is None:
        return set()
    accepted = set(snapshot.accepted)
    return {c.licence for c in chain.contributions(snapshot.datanet) if c.index in accepted}


def _together(words: set[Hash32]) -> str | None:
    """None where one is too long for the chain or no SPDX expression: anybody may record anything."""
    texts = [licence_text(word) for word in sorted(words)]
    if not texts or None in texts:
        return None
    try:
        each = sorted({parse_licence(text) for text in texts if text is not None})
        return parse_licence(" AND ".join(f"({expression})" for expression in each))
    except UnknownLicence:
        return None
