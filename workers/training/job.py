"""One job inside the training process: from rows to the adapter's folder."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from backend.domain.screening import AdapterRefused
from inference.errors import InferenceError
from inference.lora.files import adapter_digest
from inference.model.base_model import base_model_digest
from inference.model.sources import model_name, resolve_model
from workers.training.card import Card, versions
from workers.training.evaluate import mean_loss
from workers.training.fit import MIDWAY_FILE, NonFiniteLoss, compute_dtype, fit, lora_model
from workers.training.index import capture, write_index
from workers.training.inspect import as_json, inspect
from workers.training.rows import UnusableRows, general_examples, hold_out, preamble_ids, read_examples
from workers.training.spec import (
    ADAPTER,
    CHECKPOINTS,
    INSPECTION_FILE,
    RESULT_FILE,
    ROWS_FILE,
    write_json,
)
from workers.training.warm_start import ParentDiffers, load_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.training import TrainingConfig
    from workers.training.index import GradientIndex
    from workers.training.progress import Emit
    from workers.training.rows import Example
    from workers.training.spec import TrainingSpec


MAX_LOSS = 700.0
"""In nats: above it a perplexity is more than a float holds. Guessing at random costs about 11."""


@dataclass(frozen=True, slots=True)
class _Base:
    """The base model of a job."""

    folder: Path
    digest: str
    tokenizer: Any


def run_job(spec: TrainingSpec, folder: Path, emit: Emit) -> None:
    """Leaves `adapter/` and `result.json` in `folder`; killed anywhere, it may be run again.

    Errors: `UnusableRows`, `ParentDiffers`, `NonFiniteLoss`, `backend.domain.screening.AdapterRefused`.
    """
    started = time.monotonic()
    torch.set_num_threads(spec.num_threads)
    base = _open_base(spec)
    if spec.parent_base not in {"", "0x" + base.digest}:
        message = f"the parent's base model is {spec.parent_base}, and 0x{base.digest} is trained here"
        raise ParentDiffers(message, param="parent")
    train, held_out = _split(spec, folder / ROWS_FILE, base)
    scratch = folder / f"{ADAPTER}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    metrics, gradients = _learn(spec, base, train, held_out, folder / CHECKPOINTS, scratch, emit)
    digest = adapter_digest(scratch)
    try:
        write_index(base.folder, scratch, digest, train, gradients, spec.num_threads, emit)
    except InferenceError as error:
        raise AdapterRefused(
            f"the engine refuses the trained adapter: {error}", details={"reason": error.code}
        ) from error
    found = inspect(base.folder, scratch)
    card = Card(spec, model_name(base.folder), base.digest, metrics, found.statistics, _made_by())
    (scratch / "README.md").write_text(card.render(), encoding="utf-8")
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    scratch.rename(folder / ADAPTER)
    write_json(folder / INSPECTION_FILE, as_json(found))
    result = {
        "adapter_digest": "0x" + digest,
        "base_model": "0x" + base.digest,
        "metrics": {**metrics, "train_seconds": round(time.monotonic() - started, 1)},
    }
    write_json(folder / RESULT_FILE, result)


def _made_by() -> dict[str, str]:
    return {**versions(), "dtype": str(compute_dtype()).removeprefix("torch.")}


def _open_base(spec: TrainingSpec) -> _Base:
    folder = resolve_model(spec.base_folder, Path(spec.model_cache))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return _Base(folder, base_model_digest(folder), tokenizer)


def _split(spec: TrainingSpec, rows: Path, base: _Base) -> tuple[list[Example], list[Example]]:
    """(train, held out)."""
    config = spec.config
    examples = read_examples(rows, base.tokenizer, config.max_length, config.loss_on)
    if not examples:
        raise UnusableRows(f"no row has an answer within {config.max_length} tokens", param="max_length")
    return hold_out(examples, config.eval_fraction, config.seed)


def _learn(
    spec: TrainingSpec,
    base: _Base,
    train: Sequence[Example],
    held_out: Sequence[Example],
    checkpoints: Path,
    adapter: Path,
    emit: Emit,
) -> tuple[dict[str, float], GradientIndex]:
    """Train, save to `adapter`, and measure what was saved. The model is gone afterwards."""
    config = spec.config
    deciding, held_out = _deciding(held_out, config)
    model = lora_model(base.folder, config)
    general = general_examples(base.tokenizer)
    with model.disable_adapter():
        base_loss = _evaluated("base", mean_loss(model, held_out, emit), emit)
        general_base = _checked("base", mean_loss(model, general, emit))
    if config.parent is not None:
        load_parent(model, Path(spec.parent_folder), config)
        _evaluated("parent", mean_loss(model, held_out, emit), emit)
    summary = fit(model, train, config, checkpoints, emit, deciding)
    _round_to_bf16(model)
    adapter_loss = _evaluated("adapter", mean_loss(model, held_out, emit), emit)
    general_adapter = _checked("adapter", mean_loss(model, general, emit))
    _save_adapter(model, adapter, base)
    midway = (checkpoints / MIDWAY_FILE).read_bytes()
    gradients = capture(model, midway, summary.midway_step, train, preamble_ids(base.tokenizer), emit)
    metrics = {
        "eval_loss_base": base_loss,
        "eval_loss_adapter": adapter_loss,
        "perplexity_base": math.exp(base_loss),
        "perplexity_adapter": math.exp(adapter_loss),
        "general_loss_base": general_base,
        "general_loss_adapter": general_adapter,
        "num_train_rows": len(train),
        "num_eval_rows": len(held_out),
        **asdict(summary),
    }
    return metrics, gradients


def _deciding(
    held_out: Sequence[Example], config: TrainingConfig
) -> tuple[Sequence[Example], Sequence[Example]]:
    """(rows that say when to stop, rows that measure): what chose the adapter would flatter it."""
    if not config.early_stopping:
        return (), held_out
    try:
        return hold_out(held_out, 0.5, config.seed)
    except UnusableRows as error:
        few = "early_stopping divides the held-out rows by source, and there is only one: raise eval_fraction"
        raise UnusableRows(few, param="early_stopping") from error


def _checked(name: str, loss: float) -> float:
    if not loss < MAX_LOSS:  # NaN fails too
        what = f"the loss of the {name} model on rows that it was not trained on is {loss}"
        raise NonFiniteLoss(f"{what}; lower the learning rate", details={"model": name})
    return loss


def _evaluated(name: str, loss: float, emit: Emit) -> float:
    _checked(name, loss)
    emit("eval", {"model": name, "loss": loss, "perplexity": math.exp(loss)})
    return loss


def _round_to_bf16(model: Any) -> None:
    """What is measured below is what is published: half the bytes of the fp32 master weights."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.bfloat16().to(weight.dtype)


def _save_adapter(model: Any, folder: Path, base: _Base) -> None:
    """A PEFT folder that names no path of this machine and comes out the same for the same training."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.bfloat16()
    model.save_pretrained(folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config |= {
        "base_model_name_or_path": model_name(base.folder),
        "base_model_digest": base.digest,
        "target_modules": sorted(config["target_modules"]),  # PEFT writes a set, in the order of its hashes
    }
    path.write_text(json.dumps(config, sort_keys=True, indent=2) + "\n")
