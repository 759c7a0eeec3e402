"""Validates an imported adapter and turns its uploaded files into an adapter folder.

The files are untrusted. Only the engine's own reader opens them, in a child process; libraries that would
load what the configuration names (PEFT, transformers) do not.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from backend.domain.screening import AdapterRefused
from backend.domain.training import TrainingConfig
from inference.lora.files import CONFIG_FILE, WEIGHTS_FILE
from inference.model.sources import model_name, resolve_model
from inference.tokenization.load import load_tokenizer
from workers.training.card import ImportCard
from workers.training.evaluate import mean_loss
from workers.training.fit import lora_model
from workers.training.inspection import as_json, inspect_loaded, open_adapter
from workers.training.rows import general_examples
from workers.training.spec import UPLOADED, adapter_draft, write_result

if TYPE_CHECKING:
    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.lora.block import DoraScale
    from inference.model.architecture import Architecture
    from workers.training.progress import Emit
    from workers.training.spec import ImportSpec

_REFERENCES = ("base_model_name_or_path", "revision")
"""Keys of a configuration whose values other readers of the folder resolve."""
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


def validate_import(spec: ImportSpec, folder: Path, emit: Emit) -> None:
    """Write `adapter/` and `result.json` to `folder`. May be killed at any point and run again.

    Errors: `AdapterRefused`, with the engine's error code in `details["reason"]`.
    """
    torch.set_num_threads(spec.num_threads)
    base_folder = resolve_model(spec.base_folder, Path(spec.model_cache))
    adapter, base, base_digest = open_adapter(base_folder, folder / UPLOADED)
    _check_references(folder / UPLOADED / CONFIG_FILE, model_name(base_folder))
    inspection = inspect_loaded(adapter, base, base_digest)
    metrics = general_losses(base_folder, adapter, base.architecture, emit)
    card = ImportCard(
        spec, model_name(base_folder), base_digest, adapter.digest, metrics, inspection.statistics
    )
    draft = adapter_draft(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(folder / UPLOADED / name, draft / name)
    write_result(draft, card.render(), as_json(inspection), metrics)


def general_losses(
    base_folder: Path, adapter: Adapter, architecture: Architecture, emit: Emit
) -> dict[str, float]:
    """Losses of the base model and of the adapter on the fixed general set. Errors: `AdapterRefused`."""
    examples = general_examples(load_tokenizer(base_folder))
    model = lora_model(base_folder, TrainingConfig(rank=1, targets=("o_proj",)))  # which every family has
    with model.disable_adapter():
        before = mean_loss(model, examples, emit)
        _attach(model.get_base_model(), adapter, architecture)
        after = mean_loss(model, examples, emit)
    if not math.isfinite(after):
        raise AdapterRefused(
            f"the model's loss on the general set with this adapter is {after}",
            details={"reason": "adapter_not_finite"},
        )
    return {"general_loss_base": before, "general_loss_adapter": after}


def _attach(model: Any, adapter: Adapter, architecture: Architecture) -> None:
    """Add the adapter's update to the output of each linear layer, as the engine does."""
    for block in adapter.blocks:
        for index, (layer, linear) in enumerate(block.keys):
            scale = None if block.dora is None else block.dora.layer(index)
            update = _Update(block.shrink[index], block.expand[index], scale)
            model.get_submodule(architecture.linear_name(layer, linear)).register_forward_hook(update)


class _Update:
    def __init__(self, shrink: Tensor, expand: Tensor, scale: DoraScale | None) -> None:
        self._shrink, self._expand, self._gain = shrink, expand, scale

    def __call__(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        shrink, expand = (part.to(output.device, output.dtype) for part in (self._shrink, self._expand))
        adapted = output + inputs[0].to(output.dtype) @ shrink.T @ expand
        if self._gain is None:
            return adapted
        factor, offset = self._gain.factor.to(output.device), self._gain.offset
        scaled = factor * adapted
        return (scaled if offset is None else scaled + offset.to(output.device)).to(output.dtype)


def _check_references(config: Path, base_name: str) -> None:
    """Refuse paths: the engine ignores these keys, but other readers of the folder would load from there."""
    for key in _REFERENCES:
        value = json.loads(config.read_bytes()).get(key)
        if not value:
            continue
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise AdapterRefused(
                f"{CONFIG_FILE}: {key}: {str(value)[:100]!r} is a path and not a model name; "
                f"write {base_name!r}, or leave it out",
                details={"reason": "adapter_path"},
            )
