"""Port of attribution methods, which score the contributions that influenced an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Probe:
    """Vectors of an answer for attribution; None if not computed.

    `hidden`: mean final hidden state over the tokens. `error`: sum over the tokens of the gradient of a
    token's loss with respect to its final hidden state. `gradient`: sketched gradient of the answer's loss at
    the adapter's checkpoint.
    """

    hidden: Sequence[float] | None = None
    error: Sequence[float] | None = None
    gradient: Sequence[float] | None = None


class Attributor(Protocol):
    """`method` names the method and its version (at most 32 ASCII characters); receipts carry it."""

    @property
    def method(self) -> str: ...

    def is_prepared(self, adapter_folder: Path) -> bool:
        """Whether scoring an answer of the adapter loads nothing."""
        ...

    def prepare(self, adapter_folder: Path) -> None:
        """Load what scoring needs, before an answer begins. An unusable index is logged here and does not
        fail the answer: it is the creator's fault, not the payer's or the contributors'.
        """
        ...

    def scores(
        self, adapter_folder: Path, positions: Sequence[int], probe: Probe
    ) -> Mapping[int, float] | None:
        """Score of each of these positions (snapshot number in the record << 24 | contribution index).

        None if the method does not apply: the folder has no usable index, or the probe lacks the vector or
        has another size. Deterministic: the same folder and probe give the same scores.
        """
        ...
