"""Screens adapters before they are listed: compares their updates with all versions of the base model."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from backend.domain.errors import DomainError, NotFound, Unavailable
from backend.domain.screening import (
    SAME_MODULE,
    SKETCHED,
    AdapterRefused,
    Inspection,
    Likeness,
    ScreeningReport,
    risk_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account, Hash32, VersionId
    from backend.domain.registries import RegisteredVersion
    from backend.services.market.adapter_folders import AdapterFolders


MAX_INSPECTED = 16
"""Maximum number of versions that one `inspect_versions` fetches and inspects."""
INSPECT_SECONDS = 120.0

log = logging.getLogger(__name__)


Inspect: TypeAlias = "Callable[[Path], Inspection]"
"""Inspects the adapter in a folder. Errors: `AdapterRefused` if the engine refuses it, `Unavailable`."""


class Screening:
    """Reports compare stored inspections: of adapters trained here and of registered versions."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db, self._clock = db, clock
        self._failures: Counter[Hash32] = Counter()
        """By adapter digest, how often this process could not inspect it."""

    def add(self, inspection: Inspection) -> None:
        """Store an inspection. Idempotent."""
        with self._db.begin() as tx:
            tx.inspections.put(inspection)

    def inspect_versions(self, base_model: Hash32, folders: AdapterFolders, inspect: Inspect) -> int:
        """Fetch and inspect versions without an inspection, newest first; returns the number inspected.

        Versions that cannot be fetched are tried again next time, after the others; those that the engine
        refuses are not. The job that is published waits for at most `INSPECT_SECONDS` and one more version:
        anyone can register many that are served slowly.
        """
        with self._db.read() as tx:
            known = tx.inspections.digests(base_model)
            unknown = {
                v.record.adapter_digest: v
                for v in _versions(tx, base_model)
                if v.record.adapter_digest not in known
            }
        num_inspected, ends_at = 0, self._clock() + INSPECT_SECONDS
        newest_first = reversed(unknown.values())
        wanted = sorted(newest_first, key=lambda version: self._failures[version.record.adapter_digest])
        for version in wanted[:MAX_INSPECTED]:
            if self._clock() > ends_at:
                break
            record = version.record
            try:
                self.add(inspect(folders.folder(record)))
            except AdapterRefused as error:
                log.warning("version %s is refused by the engine: %s", version.id, error)
                self.add(Inspection(record.adapter_digest, base_model, b"", {}))
            except (DomainError, OSError) as error:
                log.info("version %s cannot be inspected now: %s", version.id, error)
                self._failures[record.adapter_digest] += 1
                continue
            num_inspected += 1
        return num_inspected

    def report(
        self,
        adapter_digest: Hash32,
        creator: Account,
        parent: VersionId | None = None,
        *,
        has_snapshot: bool = True,
    ) -> ScreeningReport:
        """Compare an inspected adapter with the versions of other creators, except `parent`, the version that
        it was trained from. An adapter without a snapshot is also compared with the creator's own versions
        that have one: a copy of these would not pay their contributors. Errors: `NotFound`.
        """
        with self._db.read() as tx:
            inspected = tx.inspections.get(adapter_digest)
            if inspected is None or not inspected.sketch:
                raise NotFound(f"adapter {adapter_digest} was not inspected", param="adapter_digest")
            versions = _versions(tx, inspected.base_model)
            parents = {version.record.adapter_digest for version in versions if version.id == parent}
            others: dict[Hash32, RegisteredVersion] = {}
            for version in versions:  # the first one with these weights is the original
                is_own = version.record.creator == creator and (has_snapshot or not version.record.snapshots)
                if not is_own and version.record.adapter_digest not in parents:
                    others.setdefault(version.record.adapter_digest, version)
            registered = {version.record.adapter_digest for version in versions}
            found = [
                (one, _likeness(inspected, one, others.get(one.adapter_digest)))
                for one in tx.inspections.of_base(inspected.base_model)
                if one.adapter_digest in registered
            ]
        return ScreeningReport(
            risk_of(
                inspected.statistics,
                [one.statistics for one, _ in found if one.adapter_digest != adapter_digest],
            ),
            max((near for _, near in found if near), key=_closeness, default=None),
            len(found),
            len(registered) - len(found),
        )


def _versions(tx: UnitOfWork, base_model: Hash32) -> list[RegisteredVersion]:
    """Versions with an adapter, in order of registration."""
    return [
        version
        for version in tx.chain.versions(base_model=base_model)
        if int(version.record.adapter_digest, 16)
    ]


def _closeness(likeness: Likeness) -> tuple[bool, float]:
    return likeness.is_copy, max(likeness.cosine, likeness.shared_ppm / 1_000_000)


def _likeness(inspected: Inspection, other: Inspection, version: RegisteredVersion | None) -> Likeness | None:
    if version is None:
        return None
    import numpy as np

    one, two = (_layers(each) for each in (inspected, other))
    if one.shape != two.shape:
        raise Unavailable(f"the sketches of {inspected.adapter_digest} and {version.id} differ in size")
    products = (one * two).sum(1)
    norms = np.sqrt((one**2).sum(1) * (two**2).sum(1))
    is_same = products >= SAME_MODULE * np.maximum(norms, np.finfo(np.float64).tiny)
    energy = (one**2).sum(1)
    total = energy.sum()
    cosine = float(products.sum() / max(np.sqrt(total * (two**2).sum()), np.finfo(np.float64).tiny))
    shared = float(energy[is_same].sum() / total) if total else 0.0
    return Likeness(version.id, version.record.creator, round(cosine, 4), round(shared * 1_000_000))


def _layers(inspection: Inspection) -> Any:
    """float64 [linear layers, SKETCHED]"""
    import numpy as np

    return np.frombuffer(inspection.sketch, "<f2").astype(np.float64).reshape(-1, SKETCHED)
