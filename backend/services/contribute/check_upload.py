"""Everything that an upload's report says, from its bytes and from what the datanet holds already."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.domain.dataset import Defect
from backend.services.contribute.profile import Profiler
from backend.services.contribute.receive import DefectLog, receive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from backend.domain.contribution import Copy, Report, Upload
    from backend.domain.ids import Hash32
    from backend.ports.contributions import ContributionTx
    from backend.services.contribute.profile import CountTokens
    from backend.services.contribute.staging import Staging

    Begin = Callable[[], AbstractContextManager[ContributionTx]]


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

        def keep(rows: Sequence[tuple[int, Hash32]]) -> None:
            with self.begin() as tx:
                tx.contributions.add_rows(upload.id, rows)

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
        )

    def _compare(self, upload: Upload, content_hash: Hash32, log: DefectLog) -> None:
        with self.read() as tx:
            for copy in tx.contributions.copies(upload.id):
                log.add(_copy_defect(copy, upload.id))
            for taken in tx.chain.contributions(upload.datanet):
                if taken.content_hash == content_hash and not log.counts:
                    log.add(Defect(1, "copied_file", f"is contribution {taken.index} by {taken.contributor}"))


def _copy_defect(copy: Copy, upload_id: str) -> Defect:
    if copy.of_upload == upload_id:
        return Defect(copy.line, "repeated_row", f"the same as line {copy.of_line}")
    where = "a contribution not yet recorded" if copy.of_index is None else f"contribution {copy.of_index}"
    message = f"the same as line {copy.of_line} of {where} by {copy.of_account}"
    return Defect(copy.line, "copied_row", message)
