"""Who influenced an answer: one Protocol for all methods, so that better ones can follow the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Attributor(Protocol):
    """`method` names the method and its version (at most 32 ASCII characters); receipts carry it."""

    @property
    def method(self) -> str: ...

    def prepare(self, adapter_folder: Path) -> None:
        """Load what scoring needs, before an answer begins. What cannot be used is found here, and said in
        the log: it is the creator's fault, and costs neither the payer nor the contributors the answer.
        """
        ...

    def scores(
        self, adapter_folder: Path, positions: Sequence[int], probe: Sequence[float] | None
    ) -> Mapping[int, float] | None:
        """Score of each of these positions: snapshot number in the record << 24 | contribution index.

        None where the method cannot say: no index in the folder that can be used, no probe, or one of another
        size. Deterministic: the same folder and probe give the same scores.
        """
        ...
