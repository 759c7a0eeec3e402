"""Reads an adapter's folder as the engine does: `python -m workers.training.inspect BASE FOLDER`.

Prints one JSON object, which `workers.inspector` reads: the inspection, or what the engine refuses.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import Any

import torch

from backend.domain.gate import AdapterRefused, Inspection
from backend.domain.ids import Hash32
from inference.config import EngineConfig
from inference.errors import InferenceError
from inference.lora.adapter import load_adapter
from inference.lora.files import adapter_digest
from inference.model.architecture import read_architecture
from inference.model.base_model import base_model_digest
from inference.model.loader import BaseWeights
from workers.training.spectrum import spectrum


def inspect(base_folder: Path, adapter_folder: Path) -> Inspection:
    """In fp32. Errors: `AdapterRefused` for whatever the engine would not serve."""
    base = BaseWeights.open(base_folder, read_architecture(base_folder), torch.float32)
    base_digest = base_model_digest(base_folder)
    try:
        digest = adapter_digest(adapter_folder)
        adapter = load_adapter(adapter_folder, digest, base, base_digest, EngineConfig(base_folder).max_rank)
    except InferenceError as error:
        raise AdapterRefused(str(error), details={"reason": error.code}) from error
    sketch, statistics = spectrum(adapter, base)
    return Inspection(Hash32("0x" + digest), Hash32("0x" + base_digest), sketch, statistics)


def as_json(inspection: Inspection) -> dict[str, Any]:
    return {
        "adapter_digest": inspection.adapter_digest,
        "base_model": inspection.base_model,
        "sketch": base64.b64encode(inspection.sketch).decode(),
        "statistics": dict(inspection.statistics),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="workers.training.inspect", description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    options = parser.parse_args(argv)
    try:
        found = as_json(inspect(options.base, options.adapter))
    except AdapterRefused as error:
        found = {"refused": error.message, **error.details}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
