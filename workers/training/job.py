"""Runs a training job in the training process: rows in, adapter folder out."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from backend.domain.adapter_files import CONFIG_FILE
from backend.domain.attribution import (
    ANSWERS_FILE,
    CHECKPOINT_FILE,
    INDEX_FILE,
    MAX_INDEX_BYTES,
    served_index_bytes,
)
from backend.domain.screening import AdapterRefused
from backend.processes.memory import machine_memory
from inference.errors import InferenceError
from inference.lora.files import adapter_digest
from inference.model.sources import model_name
from inference.protocol import AdapterRef
from workers.training.answers import plan_prompts, sample_answers, serialise_answers
from workers.training.base import open_base
from workers.training.card import Card, versions
from workers.training.evaluate import mean_loss
from workers.training.fit import MIDWAY_FILE, NonFiniteLoss, compute_dtype, fit, lora_model
from workers.training.index import IndexTooLarge, compute_index, index_bytes, open_engine
from workers.training.inspection import as_json, inspect_adapter
from workers.training.memory import OutOfMemory, memory_limit
from workers.training.rows import UnusableRows, general_examples, read_examples
from workers.training.spec import CHECKPOINTS, ROWS_FILE, adapter_draft, write_result
from workers.training.split import SPLIT, Split, hold_out, num_shared
from workers.training.warm_start import ParentMismatch, load_parent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.domain.training import TrainingConfig
    from workers.training.answers import Answer, Prompt
    from workers.training.base import Base
    from workers.training.progress import Emit
    from workers.training.rows import Example
    from workers.training.spec import TrainingSpec


MAX_STOPPING_ROWS = 256
"""Rows on which early stopping measures the loss."""
MAX_LOSS = 700.0
"""In nats. The perplexity of a larger loss overflows a float. Random guesses have a loss of about 11."""


def run_job(spec: TrainingSpec, folder: Path, emit: Emit) -> None:
    """Write `adapter/` and `result.json` to `folder`. May be killed at any point and run again.

    Errors: `UnusableRows`, `IndexTooLarge`, `OutOfMemory`, `ParentMismatch`, `NonFiniteLoss`,
    `backend.domain.screening.AdapterRefused`.
    """
    started = time.monotonic()
    torch.set_num_threads(spec.num_threads)
    base = open_base(spec.base_folder, spec.model_cache)
    if spec.parent_base not in {"", "0x" + base.digest}:
        message = f"the parent's base model is {spec.parent_base}, this worker's is 0x{base.digest}"
        raise ParentMismatch(message, param="parent")
    split = _split(spec, folder / ROWS_FILE, base, emit)
    draft = adapter_draft(folder)
    metrics = _train(spec, base, split, folder / CHECKPOINTS, draft, emit)
    adapter = AdapterRef(adapter_digest(draft), str(draft))
    metrics |= _write_index(spec, base, adapter, split, emit)
    inspection = inspect_adapter(base.folder, draft)
    card = Card(spec, model_name(base.folder), base.digest, metrics, inspection.statistics, _environment())
    train_seconds = round(time.monotonic() - started, 1)
    write_result(draft, card.render(), as_json(inspection), {**metrics, "train_seconds": train_seconds})


def _write_index(
    spec: TrainingSpec, base: Base, adapter: AdapterRef, split: Split, emit: Emit
) -> Mapping[str, float]:
    """Write the index, and the answers that its maps are fitted on, to the adapter's folder. Returns the
    index's evidence.
    """
    try:
        prompts = plan_prompts(split.train, [*split.held_out, *split.unused])
        answers = _sample(spec, base, adapter, prompts, emit)
        parts = spec.config, split.train, answers, spec.num_threads, emit
        index = compute_index(base, adapter, *parts, spec.arithmetic)
    except InferenceError as error:
        raise AdapterRefused(
            f"the engine refuses the trained adapter: {error}", details={"reason": error.code}
        ) from error
    (Path(adapter.path) / INDEX_FILE).write_bytes(index.serialise())
    (Path(adapter.path) / ANSWERS_FILE).write_bytes(serialise_answers(answers))
    return index.evidence


def _sample(
    spec: TrainingSpec, base: Base, adapter: AdapterRef, prompts: Sequence[Prompt], emit: Emit
) -> list[Answer]:
    """The engine and its copy of the base model are freed on return."""
    with open_engine(base.folder, spec.num_threads, spec.arithmetic) as engine:
        return sample_answers(engine, adapter, prompts, emit)


def _environment() -> dict[str, str]:
    return {**versions(), "dtype": str(compute_dtype()).removeprefix("torch.")}


def _split(spec: TrainingSpec, rows: Path, base: Base, emit: Emit) -> Split:
    config = spec.config
    examples = read_examples(rows, base.tokenizer, config.max_length, emit, config.loss_on)
    if not examples:
        raise UnusableRows(f"no row has an answer within {config.max_length} tokens", param="max_length")
    return hold_out(examples, config.eval_fraction, config.seed)


def _check_index_fits(train: Sequence[Example], model: Any) -> None:
    """Errors: `IndexTooLarge`, `OutOfMemory`, now and not after the job has been trained."""
    num_contributions = len({row.contribution for row in train})
    sizes = model.config.hidden_size, model.num_parameters()
    served = served_index_bytes(num_contributions, sizes[0])
    if served > MAX_INDEX_BYTES:
        message = (
            f"the attribution index of {num_contributions} contributions has {served} bytes, and answers are "
            f"attributed by at most {MAX_INDEX_BYTES}: freeze a snapshot of fewer contributions"
        )
        raise IndexTooLarge(message, param="snapshot_id")
    needed = index_bytes(len(train), num_contributions, *sizes)
    given = memory_limit() or machine_memory()
    if needed > given:
        what = (
            f"the attribution index of {len(train)} rows of {num_contributions} contributions, for which the "
            f"base model's {sizes[1] / 1e9:.2g} billion parameters are held in fp32,"
        )
        bound = f"more than the {given / 1e9:.1f} GB that this worker gives a job: train on fewer rows"
        message = f"{what} needs {needed / 1e9:.1f} GB of memory, {bound}"
        raise OutOfMemory(message, param="snapshot_id")


def _train(
    spec: TrainingSpec,
    base: Base,
    split: Split,
    checkpoints: Path,
    adapter: Path,
    emit: Emit,
) -> dict[str, float]:
    """Train, save adapter and checkpoint to the folder `adapter`, and evaluate what was saved. The model is
    freed on return.
    """
    config = spec.config
    train = split.train
    stopping_rows, held_out = _split_stopping_rows(split.held_out, config)
    model = lora_model(base.folder, config)
    _check_index_fits(train, model)
    general = general_examples(base.tokenizer)
    with model.disable_adapter():
        base_loss = _report_loss("base", mean_loss(model, held_out, emit), emit)
        general_base = _check_loss("base", mean_loss(model, general, emit))
    if config.parent is not None:
        load_parent(model, Path(spec.parent_folder), config)
        _report_loss("parent", mean_loss(model, held_out, emit), emit)
    _discard_other_splits(checkpoints)
    summary = fit(model, train, config, checkpoints, emit, stopping_rows)
    _round_to_bf16(model)
    adapter_loss = _report_loss("adapter", mean_loss(model, held_out, emit), emit)
    general_adapter = _check_loss("adapter", mean_loss(model, general, emit))
    save_adapter(model, adapter, base)
    shutil.copyfile(checkpoints / MIDWAY_FILE, adapter / CHECKPOINT_FILE)
    return {
        "eval_loss_base": base_loss,
        "eval_loss_adapter": adapter_loss,
        "perplexity_base": math.exp(base_loss),
        "perplexity_adapter": math.exp(adapter_loss),
        "general_loss_base": general_base,
        "general_loss_adapter": general_adapter,
        "num_train_rows": len(train),
        "num_eval_rows": len(held_out),
        "num_shared_eval_rows": num_shared(train, held_out),
        "num_unused_rows": len(split.unused),
        "num_charged_tokens": max(summary.num_tokens, sum(len(row.token_ids) for row in train)),
        **asdict(summary),
    }


def _discard_other_splits(checkpoints: Path) -> None:
    """Remove the checkpoints of a release that divided the rows otherwise: it trained some that are held out
    now.
    """
    rule = checkpoints / "split"
    if checkpoints.exists() and not (rule.exists() and rule.read_text() == SPLIT):
        shutil.rmtree(checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    rule.write_text(SPLIT)


def _split_stopping_rows(
    held_out: Sequence[Example], config: TrainingConfig
) -> tuple[Sequence[Example], Sequence[Example]]:
    """(rows for early stopping, rows for evaluation): rows that select the adapter would overestimate it."""
    if not config.early_stopping:
        return (), held_out
    try:
        # Another seed: by that of the first draw the same contributions would give up their rows again.
        train, evaluated, unused = hold_out(held_out, 0.5, f"{config.seed}:stopping")
    except UnusableRows as error:
        text = (
            "early_stopping splits the held-out rows by source, but they have only one: raise eval_fraction"
        )
        raise UnusableRows(text, param="early_stopping") from error
    stopping = [*train, *unused]
    if len(stopping) > MAX_STOPPING_ROWS:
        stopping = random.Random(f"{config.seed}:stopping").sample(stopping, MAX_STOPPING_ROWS)  # noqa: S311
    return stopping, evaluated


def _check_loss(name: str, loss: float) -> float:
    if not loss < MAX_LOSS:  # NaN fails too
        text = f"the loss of the {name} model on held-out rows is {loss}"
        raise NonFiniteLoss(f"{text}; lower the learning rate", details={"model": name})
    return loss


def _report_loss(name: str, loss: float, emit: Emit) -> float:
    _check_loss(name, loss)
    emit("eval", {"model": name, "loss": loss, "perplexity": math.exp(loss)})
    return loss


def _round_to_bf16(model: Any) -> None:
    """Round the weights as they are published, at half the size, so that these are evaluated."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.bfloat16().to(weight.dtype)


def save_adapter(model: Any, folder: Path, base: Base) -> None:
    """Save a deterministic PEFT folder without local paths."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.bfloat16()
    model.save_pretrained(folder)
    path = folder / CONFIG_FILE
    config = json.loads(path.read_bytes())
    config |= {
        "base_model_name_or_path": model_name(base.folder),
        "base_model_digest": base.digest,
        "target_modules": sorted(config["target_modules"]),  # PEFT writes a set in hash order
    }
    path.write_text(json.dumps(config, sort_keys=True, indent=2) + "\n")
