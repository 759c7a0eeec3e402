"""Signs accounts in without a challenge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from backend.domain.auth import Session

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account


def sign_in(database: Database, account: Account) -> None:
    """Add a session, as a sign-in does: what the account earns is stored from now on."""
    now, id_ = datetime.now(UTC), uuid4().hex
    with database.begin() as tx:
        tx.auth.add_session(Session(id_, account, now, now, f"token {id_}", now, "refresh", None))
