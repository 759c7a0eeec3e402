"""What the gate asks of the database, and of whoever can read an adapter's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import Hash32
    from backend.domain.screening import Inspection
    from backend.ports.chain import ChainView


class Inspections(Protocol):
    def put(self, inspection: Inspection) -> None:
        """In the place of an earlier one of the same adapter."""
        ...

    def get(self, adapter_digest: Hash32) -> Inspection | None: ...

    def digests(self, base_model: Hash32) -> set[Hash32]: ...

    def of_base(self, base_model: Hash32) -> Iterator[Inspection]:
        """Those that have a sketch, a few in memory at a time."""
        ...


class GateTx(Protocol):
    @property
    def chain(self) -> ChainView: ...
    @property
    def inspections(self) -> Inspections: ...


class Inspect(Protocol):
    def __call__(self, adapter_folder: Path) -> Inspection:
        """Errors: `AdapterRefused` for what the engine would not serve, `Unavailable`."""
        ...
