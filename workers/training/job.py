"""One job inside the training process: from rows to the adapter's folder."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from inference.lora.adapter import adapter_digest
from inference.model.loader import base_model_digest, prepare_base_model
from workers.training.card import Card, versions
from workers.training.evaluate import mean_loss
from workers.training.fit import fit, lora_model
from workers.training.index import write_index
from workers.training.rows import UnusableRows, hold_out, read_examples
from workers.training.spec import ADAPTER, CHECKPOINTS, RESULT_FILE, ROWS_FILE, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.training.fit import Emit
    from workers.training.spec import TrainingSpec


def run_job(spec: TrainingSpec, folder: Path, emit: Emit) -> None:
    """Leaves `adapter/` and `result.json` in `folder`; killed anywhere, it may be run again.

    Errors: `UnusableRows`, `NonFiniteLoss`.
    """
    started = time.monotonic()
    torch.set_num_threads(spec.num_threads)
    config = spec.config
    base_folder = Path(spec.base_folder) if spec.base_folder else prepare_base_model(Path(spec.model_cache))
    tokenizer = AutoTokenizer.from_pretrained(base_folder, local_files_only=True)
    examples = read_examples(folder / ROWS_FILE, tokenizer, config.max_length)
    if not examples:
        raise UnusableRows(f"no row has an answer within {config.max_length} tokens", param="max_length")
    train, held_out = hold_out(examples, config.eval_fraction, config.seed)
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    model = lora_model(base_folder, config)
    with model.disable_adapter():
        base_loss = _evaluated("base", mean_loss(model, held_out, pad_token_id), emit)
    summary = fit(model, train, config, folder / CHECKPOINTS, pad_token_id, emit)
    _round_to_bf16(model)
    adapter_loss = _evaluated("adapter", mean_loss(model, held_out, pad_token_id), emit)
    metrics = {
        "eval_loss_base": base_loss,
        "eval_loss_adapter": adapter_loss,
        "perplexity_base": math.exp(base_loss),
        "perplexity_adapter": math.exp(adapter_loss),
        "train_loss": summary.train_loss,
        "num_steps": summary.num_steps,
        "num_trained_tokens": summary.num_trained_tokens,
        "num_train_rows": len(train),
        "num_eval_rows": len(held_out),
    }
    base_digest = base_model_digest(base_folder)
    scratch = folder / f"{ADAPTER}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    _save_adapter(model, scratch, base_folder.name, base_digest)
    write_index(model, train, pad_token_id, scratch)
    (scratch / "README.md").write_text(
        Card(spec, base_folder.name, base_digest, metrics, versions()).render()
    )
    _publish_folder(scratch, folder / ADAPTER)
    result = {
        "adapter_digest": "0x" + adapter_digest(folder / ADAPTER),
        "base_model": "0x" + base_digest,
        "metrics": {**metrics, "train_seconds": round(time.monotonic() - started, 1)},
    }
    write_json(folder / RESULT_FILE, result)


def _evaluated(name: str, loss: float, emit: Emit) -> float:
    emit("eval", {"model": name, "loss": loss, "perplexity": math.exp(loss)})
    return loss


def _round_to_bf16(model: Any) -> None:
    """What is measured below is what is published: half the bytes of the fp32 master weights."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.bfloat16().to(weight.dtype)


def _save_adapter(model: Any, folder: Path, base_name: str, base_digest: str) -> None:
    """A PEFT folder that names no path of this machine and comes out the same for the same training."""
    master = {name: weight.dtype for name, weight in model.named_parameters() if weight.requires_grad}
    _cast(model, dict.fromkeys(master, torch.bfloat16))
    model.save_pretrained(folder)
    _cast(model, master)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config |= {
        "base_model_name_or_path": base_name,
        "base_model_digest": base_digest,
        "target_modules": sorted(config["target_modules"]),  # PEFT writes a set, in the order of its hashes
    }
    path.write_text(json.dumps(config, sort_keys=True, indent=2) + "\n")


def _cast(model: Any, dtypes: Mapping[str, torch.dtype]) -> None:
    for name, weight in model.named_parameters():
        if name in dtypes:
            weight.data = weight.data.to(dtypes[name])


def _publish_folder(scratch: Path, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)
    scratch.rename(final)
