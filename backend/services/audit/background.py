"""Audits that requests start and wait for briefly: they may fetch operators' data for minutes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from backend.domain.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.services.audit.auditor import Auditor
    from backend.services.background import Background, Work

TURN_SECONDS = 10.0
"""After so much time an audit waits for others that wait, and goes on with the next batch afterwards."""


class BackgroundAudits:
    """Audits operators' batches in the background."""

    def __init__(self, db: Database, auditor: Auditor, background: Background) -> None:
        self._db, self._auditor, self._background = db, auditor, background

    def follow(self, operators: Iterable[Account], *, is_urgent: bool = False) -> dict[Account, DomainError]:
        """Audit what these operators have committed since. Returns why the newest batches of some of them are
        not audited: `WrongBatch`, or `Unavailable` while their data is missing or still fetched, or too many
        audits wait. Urgent audits come first, as of an operator that a request names: anyone can register
        many operators whose data does not come.
        """
        asked_at = self._background.clock()
        failed: dict[Account, DomainError] = {}
        left = list(operators)
        while behind := self._behind(left):  # again, for what was committed since an audit began
            started = [(one, self._start(one, is_urgent=is_urgent)) for one in behind]
            results = [(one, self._error(work, asked_at)) for one, work in started]
            failed |= {operator: error for operator, error in results if error is not None}
            left = [operator for operator, error in results if error is None]
        return failed

    def _start(self, operator: Account, *, is_urgent: bool) -> Work | DomainError:
        try:
            return self._background.start(operator, partial(self._turn, operator), is_urgent=is_urgent)
        except DomainError as error:
            return error

    def _error(self, work: Work | DomainError, asked_at: float) -> DomainError | None:
        return work if isinstance(work, DomainError) else self._background.error(work, asked_at)

    def _behind(self, operators: Iterable[Account]) -> list[Account]:
        with self._db.read() as tx:
            return [operator for operator in operators if not self._auditor.is_current(tx, operator)]

    def _turn(self, operator: Account) -> bool:
        ends_at = self._background.clock() + TURN_SECONDS
        self._auditor.follow(operator, lambda: self._background.clock() > ends_at)
        return not self._behind([operator])
