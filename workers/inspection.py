"""Adapters are inspected in a process of their own, so that no worker loads torch. Loads none."""

from __future__ import annotations

import base64
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Unavailable
from backend.domain.ids import Hash32
from backend.domain.screening import AdapterRefused, Inspection
from backend.processes.child import Child, ChildError, ChildTimeout, module_command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import IO

SECONDS = 600.0


class InspectionBroke(Unavailable):
    """The process that was to read an adapter ended without a word, or took too long."""


@dataclass(frozen=True, slots=True)
class Inspector:
    """Implements `backend.services.market.screening.Inspect`."""

    base_folder: Path
    num_threads: int = 1

    def __call__(self, adapter_folder: Path) -> Inspection:
        command = module_command("workers.training.inspect", self.base_folder, adapter_folder)
        threads = {"OMP_NUM_THREADS": str(self.num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with tempfile.TemporaryFile() as errors:
            try:
                with Child(command, seconds=SECONDS, errors=errors, environment=threads) as child:
                    return read_inspection(child.receive())
            except ChildTimeout as error:
                raise InspectionBroke(f"{adapter_folder}: not read within {SECONDS:.0f} seconds") from error
            except ChildError as error:
                raise InspectionBroke(f"{adapter_folder}: {error}: {_tail(errors)}") from error


def _tail(file: IO[bytes]) -> str:
    file.seek(max(file.seek(0, os.SEEK_END) - 500, 0))
    return file.read().decode(errors="replace")


def read_inspection(raw: Mapping[str, Any]) -> Inspection:
    """Errors: `AdapterRefused` if that is what the process said."""
    if "refused" in raw:
        raise AdapterRefused(raw["refused"], details={"reason": raw["reason"]})
    return Inspection(
        Hash32(raw["adapter_digest"]),
        Hash32(raw["base_model"]),
        base64.b64decode(raw["sketch"]),
        raw["statistics"],
    )
