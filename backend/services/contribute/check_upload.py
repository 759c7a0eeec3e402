"""Everything that an upload's report says, from its bytes and from what the datanet holds already."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from backend.domain.dataset import Defect
from backend.domain.near_duplicates import NEAR_PPM, NearCopies
from backend.services.contribute.personal_data import PersonalDataScreen
from backend.services.contribute.profile import Profiler
from backend.services.contribute.receive import DefectLog, receive, write_rows
from backend.services.contribute.sketch import sketches
from backend.services.contribute.uploads import ROWS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.contribution import Copy, PersonalKind, Report, Upload
    from backend.domain.dataset import Row
    from backend.domain.ids import Hash32
    from backend.domain.near_duplicates import NearCopy
    from backend.services.contribute.profile import CountTokens
    from backend.services.contribute.receive import Received
    from backend.services.contribute.staging import Staging


COPIES = frozenset({"repeated_row", "copied_row"})
MAX_NEAR_COPIES_SHOWN = 100
"""Of each kind."""


@dataclass(frozen=True, slots=True)
class UploadCheck:
    db: Database
    staging: Staging
    count_tokens: CountTokens
    refused_kinds: frozenset[PersonalKind]
    """Of personal data."""

    def report(self, upload: Upload, stream: Iterable[bytes], *, accepts_partial: bool = False) -> Report:
        """The canonical rows are in the staging folder then. Without a content hash if there is nothing to be
        contributed: for any defect, or, if `accepts_partial`, where no row is left without such lines.

        Errors: those of `receive`, and whatever the stream raises.
        """
        self.staging.open(upload.id)
        profiler = Profiler(self.count_tokens)
        target, max_bytes = self.staging.data(upload.id), self.staging.max_bytes
        keep = partial(self._keep, upload.id)
        with DefectLog(self.staging.defects(upload.id)) as log:
            with PersonalDataScreen(self.refused_kinds, log) as screen:
                received = receive(stream, target, max_bytes, log, profiler, keep, screen)
            num_lines = received.num_lines
            self._name_copies(upload.id, log)
            if accepts_partial and log.counts.keys() & COPIES:
                profiler = Profiler(self.count_tokens)
                received = self._leave_out_copies(upload.id, profiler)
            is_kept = profiler.num_rows > 0 and (accepts_partial or not log.counts)
            is_kept = is_kept and not self._is_taken(upload, received, log)
        return replace(
            upload.report,
            format=received.format,
            num_rows=profiler.num_rows,
            num_characters=profiler.num_characters,
            num_bytes=received.num_bytes,
            content_hash=received.content_hash if is_kept else None,
            defects=tuple(log.first),
            defect_counts=dict(log.counts),
            num_left_out=num_lines - profiler.num_rows if is_kept else 0,
            profile=profiler.profile() if profiler.num_rows else None,
            personal_data=screen.found(),
            near_copies=self._near_copies(upload.id),
        )

    def _keep(self, upload_id: str, rows: Sequence[tuple[Row, Hash32]]) -> None:
        drawn = sketches(["\n".join(row.texts) for row, _ in rows])
        with self.db.begin() as tx:
            tx.contributions.add_rows(upload_id, [(row.line, row_hash) for row, row_hash in rows])
            tx.sketches.add(
                upload_id, [(row.line, sketch) for (row, _), sketch in zip(rows, drawn, strict=True)]
            )

    def _name_copies(self, upload_id: str, log: DefectLog) -> None:
        with self.db.read() as tx:
            for copy in tx.contributions.copies(upload_id):
                log.add(_copy_defect(copy, upload_id))

    def _is_taken(self, upload: Upload, received: Received, log: DefectLog) -> bool:
        """Whether the datanet has these very bytes, be it from elsewhere."""
        with self.db.read() as tx:
            recorded = tx.chain.contributions(upload.datanet)
        taken = next((known for known in recorded if known.content_hash == received.content_hash), None)
        if taken is not None:
            log.add(Defect(1, "copied_file", f"is contribution {taken.index} by {taken.contributor}"))
        return taken is not None

    def _leave_out_copies(self, upload_id: str, profiler: Profiler) -> Received:
        """The canonical rows once more, and without those that are copies."""
        data = self.staging.data(upload_id)
        draft = data.with_suffix(".part")
        with data.open("rb") as file, DefectLog(data.with_suffix(".none")) as none:
            rows = self._without_copies(upload_id, file)
            received = write_rows(rows, draft, none, profiler, lambda _: None, iter)
        draft.replace(data)
        return received

    def _without_copies(self, upload_id: str, rows: Iterable[bytes]) -> Iterator[bytes]:
        """`rows`: the upload's, by line. Those that are not handed on are forgotten."""
        copied: list[int] = []
        with self.db.read() as tx:
            for (line, is_copy), row in zip(tx.contributions.rows_by_line(upload_id), rows, strict=True):
                if not is_copy:
                    yield row
                    continue
                copied.append(line)
                if len(copied) == ROWS_AT_ONCE:
                    self._forget(upload_id, copied)
                    copied.clear()
        self._forget(upload_id, copied)

    def _forget(self, upload_id: str, lines: Sequence[int]) -> None:
        with self.db.begin() as tx:
            tx.sketches.drop_lines(upload_id, lines)
            tx.contributions.drop_lines(upload_id, lines)

    def _near_copies(self, upload_id: str) -> NearCopies:
        """Of each row the one that is most alike, one of its own upload and one of another's."""
        counts: Counter[bool] = Counter()
        first: list[NearCopy] = []
        with self.db.read() as tx:
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
