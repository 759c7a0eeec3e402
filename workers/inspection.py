"""Inspects adapters in a child process, so that workers need not load torch."""

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
ERROR_BYTES = 500


class InspectionFailed(Unavailable):
    """The child process died or took too long. This is no verdict on the adapter."""


@dataclass(frozen=True, slots=True)
class InspectionProcess:
    """Implements `backend.services.market.screening.Inspect`."""

    base_folder: Path
    num_threads: int = 1

    def __call__(self, adapter_folder: Path) -> Inspection:
        command = module_command("workers.training.inspection", self.base_folder, adapter_folder)
        threads = {"OMP_NUM_THREADS": str(self.num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with tempfile.TemporaryFile() as errors:
            try:
                with Child(command, seconds=SECONDS, errors=errors, environment=threads) as child:
                    return parse_inspection(child.receive())
            except ChildTimeout as error:
                raise InspectionFailed(f"{adapter_folder}: not read within {SECONDS:.0f} seconds") from error
            except ChildError as error:
                raise InspectionFailed(f"{adapter_folder}: {error}: {_tail(errors)}") from error


def parse_inspection(message: Mapping[str, Any]) -> Inspection:
    """Errors: `AdapterRefused` if the message is a refusal."""
    if "refused" in message:
        raise AdapterRefused(message["refused"], details={"reason": message["reason"]})
    return Inspection(
        Hash32(message["adapter_digest"]),
        Hash32(message["base_model"]),
        base64.b64decode(message["sketch"]),
        message["statistics"],
    )


def _tail(file: IO[bytes]) -> str:
    file.seek(max(file.seek(0, os.SEEK_END) - ERROR_BYTES, 0))
    return file.read().decode(errors="replace")
