"""An adapter that was trained elsewhere: from what its creator brought to a folder like those of jobs.

It comes from a stranger. Its two files are read by the engine's own reader, in a process that may die, and by
none of the libraries that would follow what a configuration names.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from backend.domain.screening import AdapterRefused
from backend.domain.training import TrainingConfig
from inference.lora.files import CONFIG_FILE, WEIGHTS_FILE
from inference.model.sources import model_name, resolve_model
from workers.training.card import ImportCard
from workers.training.evaluate import mean_loss
from workers.training.fit import lora_model
from workers.training.inspect import as_json, inspect_loaded, open_adapter
from workers.training.rows import general_examples
from workers.training.spec import ADAPTER, BROUGHT, INSPECTION_FILE, RESULT_FILE, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.lora.block import DoraScale
    from inference.model.architecture import Architecture
    from workers.training.progress import Emit
    from workers.training.spec import ImportSpec

_PLACES = ("base_model_name_or_path", "revision")
"""Keys of a configuration whose values readers of the folder go to."""
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


def accept(spec: ImportSpec, folder: Path, emit: Emit) -> None:
    """Leaves `adapter/` and `result.json` in `folder`; killed anywhere, it may be run again.

    Errors: `AdapterRefused`, with what the engine says in `details["reason"]`.
    """
    torch.set_num_threads(spec.num_threads)
    base_folder = resolve_model(spec.base_folder, Path(spec.model_cache))
    adapter, base, base_digest = open_adapter(base_folder, folder / BROUGHT)
    _check_places(folder / BROUGHT / CONFIG_FILE, model_name(base_folder))
    found = inspect_loaded(adapter, base, base_digest)
    metrics = general_losses(base_folder, adapter, base.architecture, emit)
    card = ImportCard(spec, model_name(base_folder), base_digest, adapter.digest, metrics, found.statistics)
    scratch = folder / f"{ADAPTER}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(folder / BROUGHT / name, scratch / name)
    (scratch / "README.md").write_text(card.render(), encoding="utf-8")
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    scratch.rename(folder / ADAPTER)
    write_json(folder / INSPECTION_FILE, as_json(found))
    result = {"adapter_digest": found.adapter_digest, "base_model": found.base_model, "metrics": metrics}
    write_json(folder / RESULT_FILE, result)


def general_losses(
    base_folder: Path, adapter: Adapter, architecture: Architecture, emit: Emit
) -> dict[str, float]:
    """Of the base model and of the adapter on it, on the fixed general set. Errors: `AdapterRefused`."""
    examples = general_examples(AutoTokenizer.from_pretrained(base_folder, local_files_only=True))
    model = lora_model(base_folder, TrainingConfig(rank=1))
    with model.disable_adapter():
        before = mean_loss(model, examples, emit)
        _attach(model.get_base_model(), adapter, architecture)
        after = mean_loss(model, examples, emit)
    if not math.isfinite(after):
        raise AdapterRefused(
            f"with it the model's loss on the general set is {after}",
            details={"reason": "adapter_not_finite"},
        )
    return {"general_loss_base": before, "general_loss_adapter": after}


def _attach(model: Any, adapter: Adapter, architecture: Architecture) -> None:
    """What the engine adds to each linear layer's output, added here."""
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


def _check_places(config: Path, base_name: str) -> None:
    """What the engine never follows, other readers of the folder do."""
    for key in _PLACES:
        value = json.loads(config.read_bytes()).get(key)
        if not value:
            continue
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise AdapterRefused(
                f"{CONFIG_FILE}: {key}: {str(value)[:100]!r} is no name, but a path that others would "
                f"follow; write {base_name!r}, or leave it out",
                details={"reason": "adapter_path"},
            )
