"""Generates adapters that must be refused, each with its error code."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from inference.lora.files import adapter_digest
from inference.protocol import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_ANY_DIGEST = "ab" * 32


@dataclass(frozen=True, slots=True)
class Hostile:
    """An adapter, and the error code with which every request for it must end."""

    adapter: AdapterRef
    code: str


def make_hostile(valid: Path, root: Path) -> list[Hostile]:
    """Copy the adapter folder `valid` to `root`, each time with a different defect."""
    shutil.rmtree(root, ignore_errors=True)

    def corrupted(name: str, corrupt: Callable[[Path], None]) -> Path:
        folder = root / name
        shutil.copytree(valid, folder)
        corrupt(folder)
        return folder

    def named(name: str, code: str, corrupt: Callable[[Path], None]) -> Hostile:
        folder = corrupted(name, corrupt)
        return Hostile(AdapterRef(adapter_digest(folder), str(folder)), code)

    pickled = corrupted("pickle", lambda folder: (folder / "adapter_model.bin").touch())
    return [
        Hostile(AdapterRef(_ANY_DIGEST, str(valid)), "adapter_digest_mismatch"),
        Hostile(AdapterRef("cd" * 32, str(root / "missing")), "adapter_file_missing"),
        Hostile(AdapterRef("ef" * 32, str(pickled)), "adapter_pickle"),
        named("truncated", "adapter_header", _truncate),
        named("nan", "adapter_not_finite", lambda folder: _change(folder, lambda one: one * float("nan"))),
        named("overflow", "numerical_error", lambda folder: _change(folder, lambda one: one * 1e30)),
        named("rank", "adapter_shape", lambda folder: _configure(folder, r=3)),
        named("bias", "adapter_bias", lambda folder: _configure(folder, bias="all")),
    ]


def _truncate(folder: Path) -> None:
    weights = (folder / _WEIGHTS).read_bytes()
    (folder / _WEIGHTS).write_bytes(weights[: len(weights) // 2])


def _change(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    tensors = load_file(folder / _WEIGHTS)
    save_file({name: change(tensor) for name, tensor in tensors.items()}, folder / _WEIGHTS)


def _configure(folder: Path, **values: object) -> None:
    config = json.loads((folder / _CONFIG).read_text())
    (folder / _CONFIG).write_text(json.dumps({**config, **values}))
