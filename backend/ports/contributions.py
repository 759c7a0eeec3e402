"""What contributions and snapshots need of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from backend.domain.contribution import Copy, Upload, UploadState
    from backend.domain.ids import Account, DatanetId, Hash32
    from backend.domain.near_duplicates import NearCopy, Sketch
    from backend.ports.chain import ChainView, Transactions


class Uploads(Protocol):
    def add(self, upload: Upload) -> None: ...

    def get(self, upload_id: str) -> Upload | None: ...

    def locked(self, upload_id: str) -> Upload | None:
        """The upload, and nobody else changes it until the transaction ends."""
        ...

    def save(self, upload: Upload) -> None: ...

    def remove(self, upload_id: str) -> None:
        """The upload and its rows."""
        ...

    def find(
        self,
        account: Account | None = None,
        datanet: DatanetId | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Upload]:
        """Newest first, those after upload `after`. Errors: `InvalidInput` if that is none of them."""
        ...

    def in_states(self, states: Iterable[UploadState], before: datetime | None = None) -> list[str]:
        """Ids, the oldest first; only those created before that instant, if one is given."""
        ...

    def next_nonce(self, account: Account) -> int:
        """One above the highest nonce of the account's uploads on their way to the chain; else 0."""
        ...

    def add_rows(self, upload_id: str, rows: Sequence[tuple[int, Hash32]]) -> None:
        """(line, row hash) of further rows. Not yet claimed."""
        ...

    def copies(self, upload_id: str) -> Iterator[Copy]:
        """By line: rows that stand earlier in the upload, or that another one in its datanet claims."""
        ...

    def rows_by_line(self, upload_id: str) -> Iterator[tuple[int, bool]]:
        """(line, whether `copies` names it) of all rows, by line."""
        ...

    def claim_rows(self, upload_id: str, after: str, limit: int) -> str | None:
        """Make the next `limit` rows, by hashes above `after`, the upload's own in its datanet.

        The last one's hash; None when there was none left. `Conflict` if another upload has one of them.
        """
        ...

    def has_claimed_all(self, upload_id: str) -> bool: ...

    def release_rows(self, upload_id: str, after: str, limit: int) -> str | None:
        """Give up the claims of the next `limit` rows, as above; the hashes stay."""
        ...

    def drop_lines(self, upload_id: str, lines: Sequence[int]) -> None:
        """Forget these rows of an upload that claims none."""
        ...

    def drop_rows(self, upload_id: str, limit: int) -> bool:
        """Forget so many rows; False when none was left."""
        ...


class Sketches(Protocol):
    def add(self, upload_id: str, rows: Sequence[tuple[int, Sketch]]) -> None:
        """(line, sketch) of further rows, which others do not find yet."""
        ...

    def near_copies(self, upload_id: str) -> Iterator[NearCopy]:
        """Pairs that share a band and are not the same row: those within the upload, then those of its rows
        with published ones of its datanet; each by line. Not all of them are alike.
        """
        ...

    def publish(self, upload_id: str, after: int, limit: int) -> int | None:
        """Let others in the datanet find the next `limit` rows by lines above `after`.

        The last one's line; None when there was none left. Publishing again changes nothing.
        """
        ...

    def retract(self, upload_id: str, after: int, limit: int) -> int | None:
        """The reverse, as above; the sketches stay."""
        ...

    def drop_lines(self, upload_id: str, lines: Sequence[int]) -> None:
        """Forget the sketches of these rows, none of them published."""
        ...

    def drop(self, upload_id: str, limit: int) -> bool:
        """Forget so many sketches, none of them published; False when none was left."""
        ...


class ContributionTx(Protocol):
    @property
    def contributions(self) -> Uploads: ...

    @property
    def sketches(self) -> Sketches: ...

    @property
    def transactions(self) -> Transactions: ...

    @property
    def chain(self) -> ChainView: ...
