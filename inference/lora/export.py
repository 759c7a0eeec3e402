"""Writes verified adapters and blends as PEFT folders, for other servers of LoRA.

What is written is what the loader parsed: A and B alone, in the served dtype, with scaling, patterns and
weights folded into B. Nothing else of an untrusted folder gets there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inference.errors import AdapterUnsupportedError
from inference.lora.files import CONFIG_FILE, WEIGHTS_FILE
from inference.model.architecture import OUTER

if TYPE_CHECKING:
    from torch import Tensor

    from inference.lora.blend import Blend
    from inference.model.architecture import Architecture

PARTS_KEY = "exported_from"
"""Key of the written configuration: the digests of the adapters. Servers ignore it."""


def export_blend(blend: Blend, architecture: Architecture, folder: Path, base_name: str) -> None:
    """Write `blend`, or an adapter as a blend of one, as plain LoRA whose scaling is 1. `base_name`: the base
    model, as the server that reads the folder names it. A folder with another base is replaced.

    Raises `AdapterUnsupportedError` for what plain LoRA of linear layers does not express.
    """
    _check_plain(blend)
    tensors = _stacked(blend, architecture)
    ranks = {name: len(matrices[0]) for name, matrices in tensors.items()}
    patterns = {name: rank for name, rank in ranks.items() if rank != blend.rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        PARTS_KEY: [adapter.digest for adapter, _ in blend.parts],
        "bias": "none",
        "r": blend.rank,
        "lora_alpha": blend.rank,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": sorted({linear for _, linear in blend.keys}),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        _write(draft, tensors, config)
        draft.chmod(0o755)
        if folder.is_dir():
            folder.rename(draft / "replaced")
        draft.rename(folder)
        shutil.rmtree(folder / "replaced", ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_exported(folder: Path, base_name: str) -> bool:
    """Whether `export_blend` has written this folder for this base."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("base_model_name_or_path") == base_name


def _check_plain(blend: Blend) -> None:
    for adapter, _ in blend.parts:
        reason = None
        if adapter.is_dora:
            reason = "DoRA is not served here, only by this project's own engine"
        elif adapter.invocation:
            reason = "activated LoRA (aLoRA) is not served here, only by this project's own engine"
        elif any(block.linear in OUTER for block in adapter.blocks):
            reason = "LoRA on embeddings or head is not served here, only by this project's own engine"
        if reason is not None:
            raise AdapterUnsupportedError(adapter.digest, reason)


def _stacked(blend: Blend, architecture: Architecture) -> dict[str, tuple[Tensor, Tensor]]:
    """A [rank, in_features] and B [out_features, rank] by module. A sum of deltas is one delta whose A and B
    are stacked along the rank.
    """
    downs: defaultdict[str, list[Tensor]] = defaultdict(list)  # [rank, in_features]
    ups: defaultdict[str, list[Tensor]] = defaultdict(list)  # [rank, out_features]
    for adapter, weight in blend.parts:
        for block in adapter.blocks:
            for (layer, linear), shrink, expand in zip(block.keys, block.shrink, block.expand, strict=True):
                name = architecture.linear_name(layer, linear)
                downs[name].append(shrink)
                ups[name].append(expand if weight == 1.0 else (expand.float() * weight).to(expand.dtype))
    return {name: (torch.cat(downs[name]), torch.cat(ups[name]).T.contiguous()) for name in downs}


def _write(folder: Path, matrices: dict[str, tuple[Tensor, Tensor]], config: dict[str, Any]) -> None:
    """The configuration comes last: a server looks for it first."""
    from safetensors.torch import save_file

    sides = ("lora_A", "lora_B")
    tensors = {
        f"base_model.model.{name}.{side}.weight": matrix
        for name, pair in matrices.items()
        for side, matrix in zip(sides, pair, strict=True)
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
