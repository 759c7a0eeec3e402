"""Everything that an upload's report says, from its bytes and from what the datanet holds already."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from backend.domain.dataset import Defect
from backend.domain.near_duplicates import NEAR_PPM, NearCopies
from backend.services.contribute.profile import Profiler
from backend.services.contribute.receive import DefectLog, receive
from backend.services.contribute.sketch import sketches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from backend.domain.contribution import Copy, Report, Upload
    from backend.domain.dataset import Row
    from backend.domain.ids import Hash32
    from backend.domain.near_duplicates import NearCopy
    from backend.ports.contributions import ContributionTx
    from backend.services.contribute.profile import CountTokens
    from backend.services.contribute.staging import Staging

    Begin = Callable[[], AbstractContextManager[ContributionTx]]


MAX_NEAR_COPIES_SHOWN = 100
"""Of each kind."""


@dataclass(frozen=True, slots=True)
class UploadCheck:
    begin: Begin
    read: Begin
    staging: Staging
    count_tokens: CountTokens

    def report(self, upload: Upload, stream: Iterable[bytes]) -> Report:
        """The canonical rows are in the staging folder then; without a content hash if there is any defect.

        Errors: those of `receive`, and whatever the stream raises.
        """

        def keep(rows: Sequence[tuple[Row, Hash32]]) -> None:
            drawn = sketches(["\n".join(row.texts) for row, _ in rows])
            with self.begin() as tx:
                tx.contributions.add_rows(upload.id, [(row.line, row_hash) for row, row_hash in rows])
                tx.sketches.add(
                    upload.id, [(row.line, sketch) for (row, _), sketch in zip(rows, drawn, strict=True)]
                )

        self.staging.open(upload.id)
        profiler = Profiler(self.count_tokens)
        with DefectLog(self.staging.defects(upload.id)) as log:
            target, max_bytes = self.staging.data(upload.id), self.staging.max_bytes
            received = receive(stream, target, max_bytes, log, profiler, keep)
            self._compare(upload, received.content_hash, log)
        return replace(
            upload.report,
            format=received.format,
            num_rows=profiler.num_rows,
            num_characters=profiler.num_characters,
            num_bytes=received.num_bytes,
            content_hash=None if log.counts else received.content_hash,
            defects=tuple(log.first),
            defect_counts=dict(log.counts),
            profile=profiler.profile() if profiler.num_rows else None,
            near_copies=self._near_copies(upload.id),
        )

    def _compare(self, upload: Upload, content_hash: Hash32, log: DefectLog) -> None:
        with self.read() as tx:
            for copy in tx.contributions.copies(upload.id):
                log.add(_copy_defect(copy, upload.id))
            for taken in tx.chain.contributions(upload.datanet):
                if taken.content_hash == content_hash and not log.counts:
                    log.add(Defect(1, "copied_file", f"is contribution {taken.index} by {taken.contributor}"))

    def _near_copies(self, upload_id: str) -> NearCopies:
        """Of each row the one that is most alike, one of its own upload and one of another's."""
        counts: Counter[bool] = Counter()
        first: list[NearCopy] = []
        with self.read() as tx:
            pairs = (pair for pair in tx.sketches.near_copies(upload_id) if pair.similarity_ppm >= NEAR_PPM)
            for (_line, is_own), found in groupby(pairs, lambda p: (p.line, p.of_upload == upload_id)):
                closest = max(found, key=lambda pair: pair.similarity_ppm)
                counts[is_own] += 1
                if counts[is_own] <= MAX_NEAR_COPIES_SHOWN:
                    first.append(closest)
        return NearCopies(num_in_upload=counts[True], num_in_datanet=counts[False], first=tuple(first))


def _copy_defect(copy: Copy, upload_id: str) -> Defect:
    if copy.of_upload == upload_id:
        return Defect(copy.line, "repeated_row", f"the same as line {copy.of_line}")
    where = "a contribution not yet recorded" if copy.of_index is None else f"contribution {copy.of_index}"
    message = f"the same as line {copy.of_line} of {where} by {copy.of_account}"
    return Defect(copy.line, "copied_row", message)
