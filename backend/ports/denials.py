"""What the operator's policy asks of the database and of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from backend.domain.denials import Denial, FloorPrice, Subject
    from backend.ports.chain import ChainView


class PolicyRepository(Protocol):
    def put(self, denial: Denial) -> None:
        """In the place of an earlier one of the same subject."""
        ...

    def remove(self, subject: Subject) -> bool:
        """Whether there was one."""
        ...

    def find(self, subjects: Collection[Subject]) -> Sequence[Denial]:
        """Those that there are of a few subjects."""
        ...

    def all(self) -> Sequence[Denial]:
        """Oldest first."""
        ...

    def floor(self) -> FloorPrice: ...

    def set_floor(self, floor: FloorPrice) -> None: ...


class RunningAnswers(Protocol):
    def reserved(self, now: datetime) -> frozenset[str]:
        """Ids of the reservations that count: of the answers under way."""
        ...


class PolicyTx(Protocol):
    @property
    def chain(self) -> ChainView: ...
    @property
    def policy(self) -> PolicyRepository: ...
    @property
    def channels(self) -> RunningAnswers: ...
