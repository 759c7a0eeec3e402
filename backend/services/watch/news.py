"""Reports of the watcher: findings and actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.domain.ids import Account, Hash32
    from backend.domain.settlement import CommittedBatch
    from backend.domain.transactions import CallResult


BAD = frozenset({"wrong", "withheld", "unjudged", "unproven", "disowned"})


@dataclass(frozen=True, slots=True)
class News:
    """A finding or an action of the watcher."""

    what: str
    """Machine-readable: `right`, `wrong`, `proved`, `demanded`, `answered`, `pending`, `refused`, ..."""
    operator: Account
    number: int
    """Number of the batch."""
    batch_hash: Hash32
    message: str
    tx_hash: Hash32 | None = None

    @property
    def is_bad(self) -> bool:
        """Whether the batch is wrong, withheld or could not be judged, or a receipt can be or is disowned."""
        return self.what in BAD


def news(batch: CommittedBatch, what: str, message: str, tx_hash: Hash32 | None = None) -> News:
    return News(what, batch.operator, batch.number, batch.hash, message, tx_hash)


def outcome(batch: CommittedBatch, what: str, message: str, sent: Sequence[CallResult]) -> Iterator[News]:
    """Reports of the results of calls about this batch."""
    for one in sent:
        if one.is_done:
            yield news(batch, what, message, one.tx_hash)
        elif one.is_pending:
            yield news(batch, "pending", f"{message}: {one.call.function} is not mined yet", one.tx_hash)
        else:
            yield news(batch, "refused", f"{one.call.function}: {one.error}", one.tx_hash)
