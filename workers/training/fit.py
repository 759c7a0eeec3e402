"""LoRA on the base model with PEFT and the Trainer of transformers; resumable to the bit."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from backend.domain.errors import InvalidInput
from workers.training.rows import IGNORED, packs, plan_batches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.domain.training import TrainingConfig
    from workers.training.pulse import Emit
    from workers.training.rows import Example

COMPLETE = "complete"
"""A checkpoint without this file was being written when its process was killed."""
MIDWAY_FILE = "midway.safetensors"
"""Below the folder of checkpoints: the adapter in bf16, a third of the way, where attribution is at home."""


class NonFiniteLoss(InvalidInput):
    """Training diverged: a loss or a weight is NaN, infinite, or has no finite perplexity.

    `details` has the step, or the model that was evaluated.
    """


@dataclass(frozen=True, slots=True)
class FitSummary:
    train_loss: float
    """Mean over the last tenth of the steps."""
    num_steps: int
    num_trained_tokens: int


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask`, `labels`, each [rows, longest], padded on the right; and `_head`'s."""
    labels = _padded([e.labels for e in examples], IGNORED)
    return {
        "input_ids": _padded([e.token_ids for e in examples], pad_token_id),
        "attention_mask": _padded([[1] * len(e.token_ids) for e in examples], 0),
        "labels": labels,
        **_head(labels),
    }


def collate_packs(sequences: Sequence[Sequence[Example]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """The same of sequences of several rows; instead of a mask `position_ids`, which start again with each
    row: the model takes them for the ends of what may be attended to. Nothing predicts a row's first token.
    """
    labels = _padded([[t for e in rows for t in (IGNORED, *e.labels[1:])] for rows in sequences], IGNORED)
    return {
        "input_ids": _padded([[t for e in rows for t in e.token_ids] for rows in sequences], pad_token_id),
        "position_ids": _padded([[i for e in rows for i in range(len(e.labels))] for rows in sequences], 0),
        "labels": labels,
        **_head(labels),
    }


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _head(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The head is as wide as the vocabulary, so it is computed where something is learnt and nowhere else:
    `logits_to_keep` [kept] are the columns from which any row predicts such a token, `shift_labels`
    [rows, kept] those tokens. Loss and gradients are those of all columns.
    """
    kept = (labels[:, 1:] != IGNORED).any(0).nonzero().squeeze(1)
    return {"shift_labels": labels[:, 1:][:, kept], "logits_to_keep": kept}


def compute_dtype() -> torch.dtype:
    """What the frozen weights and all products are in: bfloat16 on GPUs and where the CPU multiplies it in
    tiles, else float32. Without tiles a CPU takes about twice as long for products in bfloat16.
    """
    in_tiles = torch.cuda.is_available() or torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if in_tiles else torch.float32


def lora_model(base_folder: Path, config: TrainingConfig) -> Any:
    """The base model in `compute_dtype`, frozen, with fresh adapter weights in fp32 that depend on the seed
    alone.
    """
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=compute_dtype(), local_files_only=True)
    model.config.use_cache = False  # with a cache, a pack's rows would see each other: its ends are not found
    set_seed(config.seed)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.variant == "rslora",
        use_dora=config.variant == "dora",
        target_modules=list(config.targets),
    )
    return get_peft_model(model, lora)


def fit(
    model: Any,
    examples: Sequence[Example],
    config: TrainingConfig,
    checkpoints: Path,
    pad_token_id: int,
    emit: Emit,
) -> FitSummary:
    """Train the adapter in place, from the newest whole checkpoint if there is one; leaves `MIDWAY_FILE`.

    Errors: `NonFiniteLoss`.
    """
    sequences = packs(examples, config.max_length) if config.packing else [(e,) for e in examples]
    lengths = [sum(len(example.token_ids) for example in rows) for rows in sequences]
    plan = plan_batches(lengths, config.batch_size, config.epochs, config.seed, config.steps)
    batches = _Batches(sequences, plan, pad_token_id)
    progress = _Progress([sum(lengths[row] for row in rows) for rows in plan], emit)
    trainer = Trainer(
        model=model,
        args=_arguments(config, len(plan), checkpoints),
        train_dataset=batches,
        data_collator=lambda items: items[0],
        callbacks=[progress, _Midway(midway_step(len(plan)), checkpoints / MIDWAY_FILE)],
    )
    trainer.remove_callback(_printer())
    newest = _newest_checkpoint(checkpoints)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    _check_weights(model, len(plan))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = losses[-max(1, len(losses) // 10) :]
    num_trained = sum(e.num_trained for places in plan for place in places for e in sequences[place])
    return FitSummary(sum(tail) / len(tail), len(plan), num_trained)


class _Batches(Dataset[dict[str, torch.Tensor]]):
    """One item an optimizer step: the Trainer then only has to walk on, and to skip when it resumes."""

    def __init__(
        self, sequences: Sequence[Sequence[Example]], plan: Sequence[Sequence[int]], pad_token_id: int
    ) -> None:
        self._sequences = sequences
        self._plan = plan
        self._pad_token_id = pad_token_id

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        sequences = [self._sequences[place] for place in self._plan[step]]
        if all(len(rows) == 1 for rows in sequences):
            return collate([rows[0] for rows in sequences], self._pad_token_id)
        return collate_packs(sequences, self._pad_token_id)


class _Progress(TrainerCallback):
    """Says how it goes after every step, and stops at the first loss that is not a number."""

    def __init__(self, num_tokens: Sequence[int], emit: Emit) -> None:
        self._num_tokens = num_tokens
        self._emit = emit
        self._first_step = 0
        self._started = 0.0
        self._loss = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._first_step = state.global_step
        self._started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if "loss" not in logs:
            return
        step, loss = state.global_step, float(logs["loss"])
        if not math.isfinite(loss):
            raise _diverged(f"the loss is {loss} at step {step}", step)
        self._loss = loss
        seconds = max(time.monotonic() - self._started, 1e-9)
        done = step - self._first_step
        progress = {
            "step": step,
            "num_steps": state.max_steps,
            "loss": loss,
            "tokens_per_second": round(sum(self._num_tokens[self._first_step : step]) / seconds, 1),
            "eta_seconds": round(seconds / done * (state.max_steps - step), 1),
        }
        self._emit("progress", progress)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        from pathlib import Path

        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
        self._emit("checkpoint", {"step": state.global_step, "loss": self._loss})


def midway_step(num_steps: int) -> int:
    """Where gradients predict influence best: later, the rows are fitted and their gradients faint."""
    return max(1, round(num_steps / 3))


class _Midway(TrainerCallback):
    """Keeps the adapter as it is after one step; a run that resumes behind it finds it kept."""

    def __init__(self, step: int, path: Path) -> None:
        self._step = step
        self._path = path

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if state.global_step == self._step:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(".partial")
            weights = get_peft_model_state_dict(model)
            save_file({name: weight.bfloat16() for name, weight in weights.items()}, scratch)
            scratch.replace(self._path)


def _arguments(config: TrainingConfig, num_steps: int, checkpoints: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=num_steps,
        per_device_train_batch_size=1,  # an item is a whole batch already
        train_sampling_strategy="sequential",
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=round(config.warmup_fraction * num_steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would replace a NaN by the mean so far
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _newest_checkpoint(checkpoints: Path) -> Path | None:
    """Half-written ones are removed, so that the Trainer's own rotation never counts them."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    whole = [path for path in found if (path / COMPLETE).exists()]
    for path in set(found) - set(whole):
        shutil.rmtree(path)
    return whole[-1] if whole else None


def _check_weights(model: Any, step: int) -> None:
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise _diverged(f"{name} is not finite after step {step}", step)


def _diverged(what: str, step: int) -> NonFiniteLoss:
    return NonFiniteLoss(f"training diverged: {what}; lower the learning rate", details={"step": step})
