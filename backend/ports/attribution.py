"""Who influenced an answer: one Protocol for all methods, so that better ones can follow the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known of an answer besides its text, as vectors; None where nobody computed it.

    `hidden`: mean final hidden state over its tokens. `error`: sum over its tokens of the gradient of each
    one's loss with respect to that state. `gradient`: the sketched gradient of its loss at the adapter's
    checkpoint.
    """

    hidden: Sequence[float] | None = None
    error: Sequence[float] | None = None
    gradient: Sequence[float] | None = None


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
        self, adapter_folder: Path, positions: Sequence[int], probe: Probe
    ) -> Mapping[int, float] | None:
        """Score of each of these positions: snapshot number in the record << 24 | contribution index.

        None where the method cannot say: no index in the folder that can be used, or a probe without what it
        reads, or of another size. Deterministic: the same folder and probe give the same scores.
        """
        ...
