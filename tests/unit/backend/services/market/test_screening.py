from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from backend.db.tables.chain import VersionRow
from backend.domain.errors import NotFound, Unavailable
from backend.domain.ids import Account, Hash32
from backend.domain.screening import MIN_KNOWN, SKETCHED, AdapterRefused, Inspection
from backend.services.market.screening import INSPECT_SECONDS, Screening

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.db.unit_of_work import Database

ALICE, BOB = Account("0x" + "a1" * 20), Account("0x" + "b0" * 20)
BASE, OTHER_BASE = Hash32("0x" + "ba" * 32), Hash32("0x" + "bb" * 32)
LAYERS = 4


def digest(number: int) -> Hash32:
    return Hash32(f"0x{number:064x}")


def update(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((LAYERS, SKETCHED))


def inspection(number: int, values: np.ndarray, base: Hash32 = BASE, **statistics: float) -> Inspection:
    packed = (values / np.abs(values).max()).astype("<f2").tobytes()
    return Inspection(digest(number), base, packed, statistics or {"norm": 1.0})


class Registry:
    """A chain's view with versions, and the screening over it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.screening = Screening(database)
        self._count = 0

    def register(
        self, number: int, creator: Account = ALICE, base: Hash32 = BASE, snapshots: Sequence[str] = ()
    ) -> str:
        self._count += 1
        raw = {
            "adapterDigest": digest(number),
            "cidDigest": digest(900 + number),
            "baseModel": base,
            "snapshots": list(snapshots),
            "promptPrice": 1,
            "completionPrice": 1,
            "operatorPpm": 1,
            "creatorPpm": 1,
        }
        version = f"0x{self._count:064x}"
        row = VersionRow(id=version, creator=creator, name=f"n{self._count}", record=raw, is_deprecated=False)
        row.block_number, row.log_index = self._count, 0
        with self.database.begin() as tx:
            tx.session.merge(row)
        return version

    def known(self, number: int, values: np.ndarray, creator: Account = ALICE, **statistics: float) -> str:
        self.screening.add(inspection(number, values, **statistics))
        return self.register(number, creator)


@pytest.fixture
def registry(database: Database) -> Registry:
    return Registry(database)


def test_the_nearest_version_of_another_creator_is_reported(registry: Registry) -> None:
    registry.known(1, update(1))
    near = registry.known(2, update(2))
    registry.known(3, update(3) + 5 * update(2), creator=BOB)
    registry.screening.add(inspection(9, update(2) + 0.3 * update(4)))
    report = registry.screening.report(digest(9), BOB)
    assert report.nearest is not None
    assert (report.nearest.version, report.nearest.creator) == (near, ALICE)
    assert report.nearest.cosine == pytest.approx(0.96, abs=0.03)
    assert report.nearest.is_copy
    assert (report.num_compared, report.num_unknown, report.risk) == (3, 0, None)


def test_a_copy_in_other_units_is_the_same_update(registry: Registry) -> None:
    registry.known(1, update(1))
    registry.screening.add(inspection(9, 0.01 * update(1)))
    near = registry.screening.report(digest(9), BOB).nearest
    assert near is not None
    assert (near.cosine, near.shared_ppm) == (1.0, 1_000_000)


def test_copied_layers_are_found_in_a_new_adapter(registry: Registry) -> None:
    original, patched = update(1), 3 * update(2)
    patched[:2] = original[:2] * 3
    registry.known(1, original)
    registry.screening.add(inspection(9, patched))
    near = registry.screening.report(digest(9), BOB).nearest
    assert near is not None
    assert near.cosine < 0.7
    assert near.shared_ppm == pytest.approx(500_000, abs=100_000)
    assert near.is_copy


def test_the_first_version_with_the_same_weights_is_the_original(registry: Registry) -> None:
    first = registry.known(1, update(1))
    registry.register(1, BOB)
    assert registry.screening.report(digest(1), BOB).nearest.version == first  # type: ignore[union-attr]


def test_ones_own_versions_other_bases_and_bare_models_are_no_copies(registry: Registry) -> None:
    registry.known(1, update(1), creator=BOB)
    registry.screening.add(inspection(2, update(1), OTHER_BASE))
    registry.register(2, ALICE, OTHER_BASE)
    registry.register(0, ALICE)  # the base model itself
    registry.screening.add(inspection(9, update(1)))
    report = registry.screening.report(digest(9), BOB)
    assert report.nearest is None
    assert (report.num_compared, report.num_unknown) == (1, 0)


def test_without_a_snapshot_ones_own_versions_that_have_one_are_originals_too(registry: Registry) -> None:
    """Otherwise a customer could list the same weights again, without their contributors."""
    for number in (1, 2):
        registry.screening.add(inspection(number, update(number)))
    registry.register(1, BOB)
    original = registry.register(2, BOB, snapshots=[digest(77)])
    assert registry.screening.report(digest(1), BOB, has_snapshot=False).nearest.version == original  # type: ignore[union-attr]
    assert not registry.screening.report(digest(1), BOB, has_snapshot=False).nearest.is_copy  # type: ignore[union-attr]
    assert registry.screening.report(digest(2), BOB, has_snapshot=False).nearest.is_copy  # type: ignore[union-attr]
    assert registry.screening.report(digest(2), BOB).nearest is None


def test_a_parent_is_no_copy_under_any_record(registry: Registry) -> None:
    registry.known(1, update(1))
    parent = registry.register(1)  # a new price
    registry.screening.add(inspection(9, update(1)))
    assert registry.screening.report(digest(9), BOB, parent).nearest is None  # type: ignore[arg-type]
    assert registry.screening.report(digest(9), BOB).nearest is not None


def test_an_update_of_nothing_is_like_nothing(registry: Registry) -> None:
    registry.known(1, update(1))
    registry.screening.add(Inspection(digest(9), BASE, bytes(LAYERS * SKETCHED * 2), {"norm": 0.0}))
    near = registry.screening.report(digest(9), BOB).nearest
    assert near is not None
    assert (near.cosine, near.is_copy) == (0.0, False)


def test_a_score_depends_only_on_the_other_adapters(registry: Registry) -> None:
    for number in range(1, MIN_KNOWN + 1):
        registry.known(number, update(number), norm=1 + number / 100)
    registry.screening.add(inspection(99, update(99), norm=3.0))
    risk = registry.screening.report(digest(99), BOB).risk
    assert risk is not None
    assert (risk.score, risk.by) == (100, "norm")
    assert registry.screening.report(digest(1), BOB).risk is None  # without itself too few are left


def test_a_version_without_an_inspection_has_no_report(registry: Registry) -> None:
    with pytest.raises(NotFound):
        registry.screening.report(digest(1), BOB)


class Folders:
    """Folders of versions 1 and 2; version 3 is unavailable."""

    def folder(self, record: Any) -> Any:
        if record.adapter_digest == digest(3):
            raise Unavailable("no provider")
        return int(record.adapter_digest, 16)


def test_versions_of_other_operators_are_inspected_once_and_missing_ones_reported(
    registry: Registry,
) -> None:
    asked = []

    def inspect(path: Path) -> Inspection:
        asked.append(path)
        if path == 2:
            raise AdapterRefused("pickle", details={"reason": "adapter_pickle"})
        return inspection(1, update(1))

    for number in (1, 2, 3):
        registry.register(number)
    inspect_versions = registry.screening.inspect_versions
    assert inspect_versions(BASE, Folders(), inspect) == 2  # type: ignore[arg-type]
    assert inspect_versions(BASE, Folders(), inspect) == 0  # type: ignore[arg-type]
    assert asked == [2, 1]
    registry.screening.add(inspection(9, update(9)))
    report = registry.screening.report(digest(9), BOB)
    assert (report.num_compared, report.num_unknown) == (1, 2)


def test_versions_that_are_served_slowly_hide_no_others_and_delay_a_job_for_a_limited_time(
    registry: Registry,
) -> None:
    now, asked = [0.0], []

    class Slow:
        """Folders of versions above 1 take longer than a job waits, and fail."""

        def folder(self, record: Any) -> int:
            number = int(record.adapter_digest, 16)
            asked.append(number)
            if number > 1:
                now[0] += 0.6 * INSPECT_SECONDS
                raise Unavailable("no operator serves it")
            return number

    screening = Screening(registry.database, lambda: now[0])
    for number in (1, 2, 3, 4, 5):
        registry.register(number)

    def inspect(_path: Path) -> Inspection:
        return inspection(1, update(1))

    assert [screening.inspect_versions(BASE, Slow(), inspect) for _ in range(3)] == [0, 0, 1]  # type: ignore[arg-type]
    assert asked == [5, 4, 3, 2, 1, 5, 4]
