"""Loads an adapter as the engine does and measures it: `python -m workers.training.inspection BASE FOLDER`.

Sends one message to `workers.inspection`: the inspection, or the engine's refusal.
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from backend.domain.ids import Hash32
from backend.domain.screening import AdapterRefused, Inspection
from backend.processes.parent import Parent
from inference.config import EngineConfig
from inference.errors import InferenceError
from inference.lora.adapter import load_adapter, max_file_bytes
from inference.lora.files import read_adapter_files
from inference.model.base_model import base_model_digest
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights
from workers.training.update_statistics import measure_update

if TYPE_CHECKING:
    from inference.lora.adapter import Adapter


def inspect_adapter(base_folder: Path, adapter_folder: Path) -> Inspection:
    """Computes in fp32. Errors: `AdapterRefused` if the engine would not serve the adapter."""
    return inspect_loaded(*open_adapter(base_folder, adapter_folder))


def open_adapter(base_folder: Path, adapter_folder: Path) -> tuple[Adapter, BaseWeights, str]:
    """(adapter in fp32, its base, digest of the base). Errors: as `inspect_adapter`."""
    base = BaseWeights.open(base_folder, read_architecture(base_folder), torch.float32)
    base_digest, max_rank = base_model_digest(base_folder), EngineConfig(base_folder).max_rank
    most_bytes = max_file_bytes(base.architecture, max_rank)
    try:
        digest = read_adapter_files(adapter_folder, most_bytes).digest
        adapter = load_adapter(adapter_folder, digest, base, base_digest, max_rank, most_bytes)
    except InferenceError as error:
        raise AdapterRefused(str(error), details={"reason": error.code}) from error
    return adapter, base, base_digest


def inspect_loaded(adapter: Adapter, base: BaseWeights, base_digest: str) -> Inspection:
    """Errors: `AdapterRefused` for an update larger than `MAX_NORM`."""
    sketch, statistics = measure_update(adapter, base)
    return Inspection(Hash32("0x" + adapter.digest), Hash32("0x" + base_digest), sketch, statistics)


def as_json(inspection: Inspection) -> dict[str, Any]:
    return {
        "adapter_digest": inspection.adapter_digest,
        "base_model": inspection.base_model,
        "sketch": base64.b64encode(inspection.sketch).decode(),
        "statistics": dict(inspection.statistics),
    }


def build_message(base_folder: Path, adapter_folder: Path) -> dict[str, Any]:
    """The inspection, or `refused` and `reason`."""
    try:
        return as_json(inspect_adapter(base_folder, adapter_folder))
    except AdapterRefused as error:
        return {"refused": error.message, **error.details}


def main() -> None:
    parser = argparse.ArgumentParser(prog="workers.training.inspection", description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    options = parser.parse_args()
    parent = Parent()
    parent.send(build_message(options.base, options.adapter))


if __name__ == "__main__":
    main()
