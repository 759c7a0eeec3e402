"""What happens to contributions once they are on their way to the chain, and the curator's decisions."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.domain.contribution import ReviewReason, Upload, UploadState, advanced
from backend.domain.errors import Forbidden, NotFound
from backend.services.attempt import MOST_ATTEMPTS, enqueue_again

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from backend.domain.chain import Contribution
    from backend.domain.ids import Account, DatanetId
    from backend.ports.contributions import ContributionTx
    from backend.services.staging import Staging

    Begin = Callable[[], AbstractContextManager[ContributionTx]]

REGISTRY = "DatasetRegistry"
ABANDONED_AFTER = timedelta(days=1)


def current(tx: ContributionTx, upload: Upload) -> Upload:
    """The upload with what the chain says of it now."""
    return upload if upload.transaction_id is None else _advanced(tx, upload, _recorded(tx, upload))


class Curation:
    """`curator`: the account that accepts what passed our check; None where there is no such role here."""

    def __init__(
        self, begin: Begin, staging: Staging, curator: Account | None, now: Callable[[], float] = time.time
    ) -> None:
        self._begin = begin
        self._staging = staging
        self._curator = curator
        self._now = now

    def advance(self) -> int:
        """Move uploads on with the chain; accept those recorded; drop what was cut off. Number of changes.

        To be called again and again. It may be killed anywhere and run beside another one.
        """
        abandoned = datetime.fromtimestamp(self._now(), UTC) - ABANDONED_AFTER
        with self._begin() as tx:
            moving = tx.contributions.in_states((UploadState.SUBMITTED, UploadState.RECORDED))
            cut_off = tx.contributions.in_states((UploadState.CHECKING,), before=abandoned)
        for upload_id in cut_off:
            with self._begin() as tx:
                tx.contributions.remove(upload_id)
            self._staging.drop(upload_id)
        return len(cut_off) + sum(map(self._advance, moving))

    def review(
        self, datanet: DatanetId, index: int, reason: ReviewReason = ReviewReason.NONE, key: str | None = None
    ) -> int:
        """Accept a recorded contribution, or reject it if there is a `reason`. Id of the queued transaction.

        The same decision again is the same transaction, unless that one failed, or it has a `key` of its own.
        Errors: `NotFound`;
        `Forbidden` where this installation is no curator.
        """
        with self._begin() as tx:
            contribution = tx.chain.contribution(datanet, index)
            if contribution is None:
                raise NotFound(f"datanet {datanet} has no contribution {index}", "index")
            return self._decide(tx, contribution, reason, key)

    def _advance(self, upload_id: str) -> bool:
        with self._begin() as tx:
            before = tx.contributions.locked(upload_id)
            if before is None:
                return False
            recorded = _recorded(tx, before)
            upload = _advanced(tx, before, recorded)
            if upload.state in {UploadState.DRAFT, UploadState.REJECTED}:
                tx.contributions.release_rows(upload_id)
            if recorded is not None and recorded.is_accepted is None and self._curator is not None:
                self._decide(tx, recorded, ReviewReason.NONE)
            if upload != before:
                tx.contributions.save(upload)
        if upload.index is not None:
            self._staging.drop(upload_id)  # the block store has it
        return upload != before

    def _decide(
        self, tx: ContributionTx, contribution: Contribution, reason: ReviewReason, key: str | None = None
    ) -> int:
        if self._curator is None:
            raise Forbidden("this installation has no curator's key")
        datanet, content_hash = contribution.datanet, contribution.content_hash
        decision = {
            "contentHash": content_hash,
            "isAccepted": reason is ReviewReason.NONE,
            "reason": str(int(reason)),
        }
        key = key or f"review:{datanet}:{content_hash}:{reason}"
        call, args = (REGISTRY, "review"), [str(datanet), [decision]]
        return enqueue_again(tx.transactions, self._curator, call, args, key, MOST_ATTEMPTS)


def _advanced(tx: ContributionTx, upload: Upload, recorded: Contribution | None) -> Upload:
    sent = None if upload.transaction_id is None else tx.transactions.get(upload.transaction_id)
    return advanced(upload, recorded, sent)


def _recorded(tx: ContributionTx, upload: Upload) -> Contribution | None:
    """What the registry holds under the upload's content hash."""
    if upload.index is not None:
        known = tx.chain.contribution(upload.datanet, upload.index)
        if known is not None and known.content_hash == upload.report.content_hash:
            return known
    recorded = tx.chain.contributions(upload.datanet)
    return next((c for c in recorded if c.content_hash == upload.report.content_hash), None)
