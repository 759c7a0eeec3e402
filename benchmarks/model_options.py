"""The options by which benchmarks name their base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inference.model.sources import resolve_model

if TYPE_CHECKING:
    import argparse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="", help="folder, GGUF file or hub id; default: the bundled SmolLM2-135M"
    )
    parser.add_argument(
        "--model-cache",
        type=Path,
        default=Path(".loraledger/cache/models"),
        help="folder of converted models",
    )


def model_of(options: argparse.Namespace) -> Path:
    """Folder of the model that the options name."""
    return resolve_model(options.model, options.model_cache)
