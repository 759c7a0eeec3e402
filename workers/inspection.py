"""Adapters are inspected in a process of their own, so that no worker loads torch. Loads none."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Unavailable
from backend.domain.ids import Hash32
from backend.domain.screening import AdapterRefused, Inspection

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECONDS = 600.0


class InspectionBroke(Unavailable):
    """The process that was to read an adapter ended without a word, or took too long."""


@dataclass(frozen=True, slots=True)
class Inspector:
    """Implements `backend.ports.screening.Inspect`."""

    base_folder: Path
    num_threads: int = 1

    def __call__(self, adapter_folder: Path) -> Inspection:
        command = [
            sys.executable,
            "-m",
            "workers.training.inspect",
            str(self.base_folder),
            str(adapter_folder),
        ]
        threads = {"OMP_NUM_THREADS": str(self.num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
                env={**os.environ, **threads},
            )
        except subprocess.TimeoutExpired as error:
            raise InspectionBroke(f"{adapter_folder}: not read within {SECONDS:.0f} seconds") from error
        if done.returncode:
            raise InspectionBroke(f"{adapter_folder}: code {done.returncode}: {done.stderr[-500:]}")
        return read_inspection(json.loads(done.stdout))


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
