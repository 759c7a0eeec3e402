"""Sessions kept between commands: one file for each market and account, readable by its owner only."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backend.client.keystore import WALLET_HOME
from backend.disk.files import write_durably

if TYPE_CHECKING:
    from backend.domain.ids import Account


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a signed-in session. `expires_at`: when the access token expires, as ISO 8601 in UTC."""

    token: str
    refresh_token: str
    expires_at: str

    def __post_init__(self) -> None:
        """Errors: `ValueError` for another form of time."""
        if self.expires.tzinfo is None:
            raise ValueError(f"{self.expires_at} has no time zone")

    @property
    def expires(self) -> datetime:
        return datetime.fromisoformat(self.expires_at)


class SessionFile:
    """The session of one account at one market; a malformed file counts as none."""

    def __init__(self, market: str, account: Account, folder: Path | None = None) -> None:
        where = folder or Path.home() / WALLET_HOME / "sessions"
        self._path = where / re.sub(r"[^a-z0-9.-]+", "_", market.lower()) / f"{account}.json"

    def load(self) -> Tokens | None:
        try:
            return Tokens(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, tokens: Tokens) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._path, json.dumps(asdict(tokens)), is_private=True)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
