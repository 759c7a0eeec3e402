"""Bills answers: computes what an answer costs, and the share of each contribution in it."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from backend.domain.attribution import METHODS_OF_ERRORS, answer_draw, shares_from_scores
from backend.domain.hashing import attribution_hash, response_bytes, salted_hash, slices_hash, to_hash
from backend.domain.receipt import Slice
from backend.domain.split import charge
from backend.services.answers.attribution import score_all
from backend.services.answers.positions import Positions
from backend.services.channels.admission import Bill
from backend.services.channels.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import VersionId
    from backend.ports.attribution import Attributor
    from backend.services.answers.request import AnswerRequest, Folders
    from backend.services.answers.transcript import Transcript

UNATTRIBUTED = "none"
"""Attribution method in receipts of versions without snapshots."""

Trained: TypeAlias = "Mapping[VersionId, tuple[Path, Sequence[int]]]"
"""Folder and accepted positions of each version with snapshots."""


@dataclass(frozen=True, slots=True)
class BilledAnswer:
    """An answer's bill, and what its attribution was computed from: the versions with snapshots, their
    contributions' scores by position, and the draw between equal ones.
    """

    bill: Bill
    draw: int
    trained: Trained = field(default_factory=dict)
    scores: Mapping[VersionId, Mapping[int, float]] = field(default_factory=dict)


_Answered: TypeAlias = "tuple[AnswerRequest, Folders, Transcript]"


class Billing:
    """Bills answers in one thread: a thread per answer would contend with the loop for the GIL."""

    def __init__(self, db: Database, attributors: Sequence[Attributor]) -> None:
        self._positions = Positions(db)
        self._attributors = attributors
        self._loader = ThreadPoolExecutor(1, "indices")
        self._bills: GroupCommit[_Answered, BilledAnswer] = GroupCommit(self._bill_all, "bills")

    def prepare(self, adapter_folder: Path) -> None:
        """Load what the attribution of its answers needs, before an answer begins."""
        for attributor in self._attributors:
            attributor.prepare(adapter_folder)

    @property
    def needs_errors(self) -> bool:
        """Whether a method uses the answers' error vectors."""
        return any(attributor.method in METHODS_OF_ERRORS for attributor in self._attributors)

    async def bill(self, request: AnswerRequest, folders: Folders, transcript: Transcript) -> BilledAnswer:
        """Errors: `Unavailable` if a snapshot is not indexed, `InvalidInput` if no method applies."""
        trained = [
            folder
            for part, folder in zip(request.parts, folders, strict=True)
            if folder is not None and part.model.record.snapshots
        ]
        if not all(one.is_prepared(folder) for one in self._attributors for folder in trained):
            # The cache evicted the index. Loading it in the thread that computes all bills would delay them.
            loop = asyncio.get_running_loop()
            for folder in trained:
                await loop.run_in_executor(self._loader, self.prepare, folder)
        return await self._bills.submit((request, folders, transcript))

    def _bill_all(self, answers: Sequence[_Answered]) -> list[BilledAnswer | Exception]:
        """A bill or an error for each answer. The error of one does not fail the others."""
        found: list[BilledAnswer | Exception] = []
        for one in answers:
            try:
                found.append(self._bill(*one))
            except Exception as error:  # noqa: BLE001 - its caller gets the error
                found.append(error)
        return found

    def _bill(self, request: AnswerRequest, folders: Folders, transcript: Transcript) -> BilledAnswer:
        trained = self._trained(request, folders)
        method, scored = UNATTRIBUTED, list["Mapping[int, float]"]()
        if trained:
            method, scored = score_all(self._attributors, list(trained.values()), transcript.probe)
        scores = dict(zip(trained, scored, strict=True))
        draw = answer_draw(request.body, transcript.texts)
        shares = {version: shares_from_scores(each, draw) for version, each in scores.items()}
        slices = tuple(
            Slice(part.model.id, part.ppm, shares.get(part.model.id, ())) for part in request.parts
        )
        salt = secrets.token_bytes(32)
        counts = transcript.prompt_tokens, transcript.completion_tokens
        bill = Bill(
            charge=charge(slices, [part.model.record for part in request.parts], *counts),
            request_hash=salted_hash(salt, request.body),
            response_hash=salted_hash(salt, response_bytes(transcript.texts)),
            slices=slices,
            slices_hash=slices_hash(slices),
            method=method,
            attribution_hash=attribution_hash(method, slices),
            prompt_tokens=transcript.prompt_tokens,
            completion_tokens=transcript.completion_tokens,
            salt=to_hash(salt),
        )
        return BilledAnswer(bill, draw, trained, scores)

    def _trained(self, request: AnswerRequest, folders: Folders) -> Trained:
        return {
            part.model.id: (folder, self._positions.of(part.model.record.snapshots))
            for part, folder in zip(request.parts, folders, strict=True)
            if folder is not None and part.model.record.snapshots
        }
