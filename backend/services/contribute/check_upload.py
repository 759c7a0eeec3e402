"""Checks an upload and builds its report: format, copies, generated answers, personal data, profile."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from backend.domain.dataset import Defect
from backend.domain.near_duplicates import NEAR_PPM, NearCopies
from backend.services.contribute.canonical_rows import DefectLog, write_rows, write_upload
from backend.services.contribute.personal_data import PersonalDataFilter
from backend.services.contribute.profile import Profiler
from backend.services.contribute.repeated_answers import AnswerIndex, GeneratedAnswerFilter
from backend.services.contribute.sketch import build_sketches
from backend.services.contribute.uploads import ROWS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.contribution import Copy, PersonalKind, Report, Upload
    from backend.domain.dataset import Row
    from backend.domain.ids import DatanetId, Hash32
    from backend.domain.near_duplicates import NearCopy
    from backend.services.contribute.canonical_rows import CanonicalRows, RowFilter
    from backend.services.contribute.profile import CountTokens
    from backend.services.contribute.staging import Staging


COPY_CODES = frozenset({"repeated_row", "copied_row"})
RECORDED_ONCE = (
    "a datanet records the same rows in the same order only once: "
    "to contribute them again, add a row or change their order"
)
MAX_NEAR_COPIES_REPORTED = 100
"""Near copies within the upload, and near copies of other uploads, that a report lists."""

MAX_VERSIONS_COMPARED = 256
"""Versions of a datanet whose published answers are compared, the newest ones: 32 MB of shingles."""


@dataclass(frozen=True, slots=True)
class UploadCheck:
    db: Database
    staging: Staging
    count_tokens: CountTokens
    refused_kinds: frozenset[PersonalKind]
    """Kinds of personal data whose rows are refused."""

    def report(self, upload: Upload, stream: Iterable[bytes], *, accepts_partial: bool = False) -> Report:
        """Write the canonical rows to the staging folder and build the report. It has no content hash if
        nothing can be contributed: because of any defect, or, if `accepts_partial`, because no valid row is
        left.

        Errors: those of `write_upload`, `DiskFull`, and what `stream` raises.
        """
        self.staging.open(upload.id)
        profiler = Profiler(self.count_tokens)
        target, max_bytes = self.staging.data(upload.id), self.staging.max_bytes
        store_rows = partial(self._store_rows, upload.id)
        with DefectLog(self.staging.defects(upload.id)) as log:
            with PersonalDataFilter(self.refused_kinds, log) as personal_data:
                generated = GeneratedAnswerFilter(self._published_answers(upload.datanet), log)
                row_filter: RowFilter = lambda batches: generated(personal_data(batches))  # noqa: E731
                limited = self.staging.space.limit(stream)
                rows = write_upload(limited, target, max_bytes, log, profiler, store_rows, row_filter)
            num_lines = rows.num_lines
            self._log_copies(upload.id, log)
            if accepts_partial and log.counts.keys() & COPY_CODES:
                profiler = Profiler(self.count_tokens)
                rows = self._rewrite_without_copies(upload.id, profiler)
            is_accepted = profiler.num_rows > 0 and (accepts_partial or not log.counts)
            is_accepted = is_accepted and not self._is_recorded(upload, rows, log)
        return replace(
            upload.report,
            format=rows.format,
            num_rows=profiler.num_rows,
            num_characters=profiler.num_characters,
            num_bytes=rows.num_bytes,
            content_hash=rows.content_hash if is_accepted else None,
            defects=tuple(log.first),
            defect_counts=dict(log.counts),
            num_left_out=num_lines - profiler.num_rows if is_accepted else 0,
            profile=profiler.profile() if profiler.num_rows else None,
            personal_data=personal_data.summary(),
            near_copies=self._near_copies(upload.id),
        )

    def _published_answers(self, datanet: DatanetId) -> AnswerIndex:
        with self.db.read() as tx:
            return AnswerIndex(tx.published_answers.of_datanet(datanet, MAX_VERSIONS_COMPARED))

    def _store_rows(self, upload_id: str, rows: Sequence[tuple[Row, Hash32]]) -> None:
        self.staging.space.require()  # a Parquet file may expand
        sketches = build_sketches(["\n".join(row.texts) for row, _ in rows])
        with self.db.begin() as tx:
            tx.contributions.add_rows(upload_id, [(row.line, row_hash) for row, row_hash in rows])
            tx.sketches.add(
                upload_id, [(row.line, sketch) for (row, _), sketch in zip(rows, sketches, strict=True)]
            )

    def _log_copies(self, upload_id: str, log: DefectLog) -> None:
        with self.db.read() as tx:
            for copy in tx.contributions.copies(upload_id):
                log.add(_copy_defect(copy, upload_id))

    def _is_recorded(self, upload: Upload, rows: CanonicalRows, log: DefectLog) -> bool:
        """Whether the datanet has a contribution with the same content, from any operator."""
        with self.db.read() as tx:
            original = tx.chain.contribution_with(upload.datanet, rows.content_hash)
        if original is not None:
            message = f"was contributed by {original.contributor}; {RECORDED_ONCE}"
            log.add(Defect(1, "copied_file", message))
        return original is not None

    def _rewrite_without_copies(self, upload_id: str, profiler: Profiler) -> CanonicalRows:
        """Write the canonical rows again, without copies."""
        data = self.staging.data(upload_id)
        draft = data.with_suffix(".part")
        with data.open("rb") as file, DefectLog(data.with_suffix(".none")) as none:
            rows = self._without_copies(upload_id, file)
            written = write_rows(rows, draft, none, profiler, lambda _: None, iter)
        draft.replace(data)
        return written

    def _without_copies(self, upload_id: str, rows: Iterable[bytes]) -> Iterator[bytes]:
        """Filter the upload's rows, which are in order of lines, and delete the copies from the database."""
        copied: list[int] = []
        with self.db.read() as tx:
            for (line, is_copy), row in zip(tx.contributions.rows_by_line(upload_id), rows, strict=True):
                if not is_copy:
                    yield row
                    continue
                copied.append(line)
                if len(copied) == ROWS_AT_ONCE:
                    self._delete_lines(upload_id, copied)
                    copied.clear()
        self._delete_lines(upload_id, copied)

    def _delete_lines(self, upload_id: str, lines: Sequence[int]) -> None:
        with self.db.begin() as tx:
            tx.sketches.drop_lines(upload_id, lines)
            tx.contributions.drop_lines(upload_id, lines)

    def _near_copies(self, upload_id: str) -> NearCopies:
        """For each row its nearest copy within the upload, and its nearest copy in another upload."""
        counts: Counter[bool] = Counter()
        first: list[NearCopy] = []
        with self.db.read() as tx:
            pairs = (pair for pair in tx.sketches.near_copies(upload_id) if pair.similarity_ppm >= NEAR_PPM)
            for (_line, is_own), found in groupby(pairs, lambda p: (p.line, p.of_upload == upload_id)):
                closest = max(found, key=lambda pair: pair.similarity_ppm)
                counts[is_own] += 1
                if counts[is_own] <= MAX_NEAR_COPIES_REPORTED:
                    first.append(closest)
        return NearCopies(num_in_upload=counts[True], num_in_datanet=counts[False], first=tuple(first))


def _copy_defect(copy: Copy, upload_id: str) -> Defect:
    if copy.of_upload == upload_id:
        return Defect(copy.line, "repeated_row", f"the same as line {copy.of_line}")
    where = "a contribution not yet accepted" if copy.of_index is None else f"contribution {copy.of_index}"
    message = f"the same as line {copy.of_line} of {where} by {copy.of_account}"
    return Defect(copy.line, "copied_row", message)
