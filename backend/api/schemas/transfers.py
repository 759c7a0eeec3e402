from __future__ import annotations

from datetime import datetime

from backend.api.schemas.common import View
from backend.domain.ids import Account


class TransferView(View):
    """A file on its way in. `offset`: bytes that have come; at `num_bytes` it can be contributed."""

    id: str
    account: Account
    name: str
    num_bytes: int
    sha256: str | None
    offset: int
    expires_at: datetime
