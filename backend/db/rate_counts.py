"""Repository of rate limits' counts. On PostgreSQL only, whose clock is the same for all processes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.domain.rate_limits import WINDOW_SECONDS, Count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

WINDOW = timedelta(seconds=WINDOW_SECONDS)

# A window begins with the first count after the last one's end. One that ends much too late was begun before
# the database's clock was set back; the second window allows for statements that began earlier and waited.
_GOES_ON = "counted.ends_at > now() AND counted.ends_at < excluded.ends_at + :window"
_ADD = text(
    f"""
    INSERT INTO rate_counts AS counted (key, count, ends_at)
    SELECT key, amount, now() + :window
    FROM unnest(CAST(:keys AS text[]), CAST(:amounts AS bigint[])) AS added (key, amount)
    ON CONFLICT (key) DO UPDATE SET
        count = excluded.count + CASE WHEN {_GOES_ON} THEN counted.count ELSE 0 END,
        ends_at = CASE WHEN {_GOES_ON} THEN counted.ends_at ELSE excluded.ends_at END
    RETURNING key, count, extract(epoch FROM ends_at - now())
    """  # noqa: S608 - our own condition
)
_FORGET = text(
    """
    DELETE FROM rate_counts WHERE key IN (
        SELECT key FROM rate_counts WHERE ends_at < now() ORDER BY ends_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    """
)


class RateCountStore:
    """Counts by key, each in its window of a minute."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, amounts: Mapping[str, int]) -> dict[str, Count]:
        """Add to the keys' counts, in one statement; each count with what was added."""
        # In one order everywhere: no two statements can wait for each other.
        keys = sorted(amounts)
        values = {"keys": keys, "amounts": [amounts[key] for key in keys], "window": WINDOW}
        rows = self._session.connection().execute(_ADD, values)
        return {key: Count(count, float(seconds)) for key, count, seconds in rows}

    def forget(self, most: int) -> int:
        """Delete up to `most` counts whose window has ended, except those that another process counts in or
        deletes. How many.
        """
        return self._session.connection().execute(_FORGET, {"most": most}).rowcount
