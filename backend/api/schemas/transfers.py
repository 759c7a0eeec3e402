from __future__ import annotations

from datetime import datetime

from backend.api.schemas.common import View
from backend.domain.ids import Account


class TransferView(View):
    """A resumable upload. `offset`: bytes received; the transfer is complete at `num_bytes`."""

    id: str
    account: Account
    name: str
    num_bytes: int
    sha256: str | None
    offset: int
    expires_at: datetime
