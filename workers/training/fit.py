"""LoRA training with PEFT and the Trainer of transformers. A resumed run gives identical weights."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from hashlib import file_digest, sha256
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import save_file
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from backend.disk.files import replacing, sync_tree, write_durably
from backend.domain.errors import InvalidInput
from inference.kernels.cpu import product_arithmetic, this_cpu
from inference.model.families import read_architecture
from workers.training.evaluate import batches_by_length
from workers.training.packing import ATTENTION, collate, is_bf16
from workers.training.progress import ProgressReporter, after_each_layer
from workers.training.rows import pack_rows, plan_batches
from workers.training.spec import COMPLETE
from workers.training.stopping import EarlyStop, evaluation_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.domain.training import TrainingConfig
    from workers.training.progress import Emit
    from workers.training.rows import Example

MICRO_BATCH_TOKENS = 2048
"""Tokens of a step that are computed at once, each row counted as long as the longest. They bound a step's
memory whatever the job's `batch_size`: about 5 GB for SmolLM2-135M in fp32. A batch of the default size is
smaller.
"""
MIDWAY_FILE = "midway.safetensors"
"""In the folder of checkpoints: the adapter in bf16 after a third of training, for attribution."""


class NonFiniteLoss(InvalidInput):
    """Training diverged: a loss, its perplexity or a weight is not finite.

    `details` has the step or the evaluated model.
    """


@dataclass(frozen=True, slots=True)
class FitSummary:
    train_loss: float
    """Mean over the last tenth of the steps."""
    num_steps: int
    num_tokens: int
    """That went through the model."""
    num_trained_tokens: int
    """Of these, those with loss."""
    midway_step: int
    """Step of the checkpoint in `MIDWAY_FILE`."""
    kept_step: int
    """Step of the model's weights: the last one, or the best one with early stopping."""


def compute_dtype() -> torch.dtype:
    """Type of the frozen weights and of all products: bfloat16 on GPUs and on CPUs that multiply it faster
    than float32, which are those with AMX and AMD's with the AVX-512 instruction for pairs.
    """
    is_fast = torch.cuda.is_available() or product_arithmetic(this_cpu()) in ("tiled", "paired")
    return torch.bfloat16 if is_fast else torch.float32


def lora_model(base_folder: Path, config: TrainingConfig, dtype: torch.dtype | None = None) -> Any:
    """The frozen base model in `dtype` (default: `compute_dtype`), with new adapter weights in fp32 drawn
    from the seed.

    Errors: `InvalidInput` for targets that the base model does not have.
    """
    architecture = read_architecture(base_folder)
    missing = [target for target in config.targets if target not in architecture.linears]
    if missing:
        raise InvalidInput(
            f"{architecture.family} has no linear layers {', '.join(missing)} that adapters can change, only "
            f"{', '.join(architecture.linears)}",
            param="targets",
        )
    dtype = dtype or compute_dtype()
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=dtype, local_files_only=True)
    model.set_attn_implementation(ATTENTION)
    model.config.use_cache = False
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
    emit: Emit,
    stopping_rows: Sequence[Example] = (),
) -> FitSummary:
    """Train the adapter in place, from the newest complete checkpoint if one exists. Writes `MIDWAY_FILE`.

    Early stopping, if configured, measures the loss on `stopping_rows`. Errors: `NonFiniteLoss`.
    """
    sequences = pack_rows(examples, config.max_length) if config.packing else [(e,) for e in examples]
    plan = plan_batches(len(sequences), config.batch_size, config.epochs, config.seed, config.steps)
    batches = [[e for index in step for e in sequences[index]] for step in plan]
    step_tokens = [sum(len(e.token_ids) for e in rows) for rows in batches]
    stop = None
    if config.early_stopping:
        interval = evaluation_interval(stopping_rows, step_tokens, config.checkpoint_steps)
        stop = EarlyStop(config.early_stopping, interval, stopping_rows, checkpoints, emit)
    midway = _Midway(midway_step(len(plan)), checkpoints / MIDWAY_FILE)
    trainer = _Trainer(
        emit,
        model=model,
        args=_arguments(config, len(plan), checkpoints, bf16=is_bf16(model)),
        train_dataset=_Batches(batches),
        data_collator=lambda items: items[0],
        callbacks=[_Progress(step_tokens, emit), *([stop] if stop else []), midway],
    )
    trainer.remove_callback(_printer())
    log = _run(trainer, model, stop, _newest_checkpoint(checkpoints))
    num_steps = stop.last_step if stop else len(plan)
    if stop:
        stop.restore_best(model)
    losses = [e["loss"] for e in log if "loss" in e and e["step"] <= num_steps]
    tail = losses[-max(1, len(losses) // 10) :]
    return FitSummary(
        train_loss=sum(tail) / len(tail),
        num_steps=num_steps,
        num_tokens=sum(step_tokens[:num_steps]),
        num_trained_tokens=sum(e.num_trained for rows in batches[:num_steps] for e in rows),
        midway_step=min(midway_step(len(plan)), num_steps),
        kept_step=stop.best_step if stop else num_steps,
    )


def _run(
    trainer: Trainer, model: Any, stop: EarlyStop | None, newest: Path | None
) -> Sequence[Mapping[str, float]]:
    """Train from checkpoint `newest` to the end; returns the log of all steps."""
    if stop is not None and newest is not None:
        stop.resume(_step(newest))
        if stop.is_over:  # the Trainer would take one step more
            state: TrainerState = TrainerState.load_from_json(str(newest / TRAINER_STATE_NAME))
            return state.log_history
    with disable_input_dtype_casting(model, active=is_bf16(model)):
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    _check_weights(model, trainer.state.max_steps)
    return trainer.state.log_history


def micro_batches(rows: Sequence[Example]) -> list[Sequence[Example]]:
    """The rows of a step in parts of at most `MICRO_BATCH_TOKENS` tokens or one row."""
    if len(rows) * max(len(row.token_ids) for row in rows) <= MICRO_BATCH_TOKENS:
        return [rows]
    return list(batches_by_length(rows, MICRO_BATCH_TOKENS))


class _Trainer(Trainer):
    """Computes a step one micro-batch after the other and adds up their gradients. Each loss is a sum divided
    by the number of the whole step's trained tokens, so only the rounding depends on the division. Emits
    `working` in a long step, which may have 65,536 tokens.
    """

    def __init__(self, emit: Emit, **options: Any) -> None:
        super().__init__(**options)
        self._emit = emit

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        working = ProgressReporter(self._emit, "training", self.state.max_steps, self.state.global_step)
        with after_each_layer(self.model, working.still_working):
            losses = [
                super(_Trainer, self).training_step(model, part, num_items_in_batch)
                for part in inputs["micro_batches"]
            ]
        return torch.stack(losses).sum()


class _Batches(Dataset[dict[str, Any]]):
    """One item per optimizer step, in order, so that a resumed Trainer only skips items."""

    def __init__(self, batches: Sequence[Sequence[Example]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> dict[str, Any]:
        """The whole batch, whose trained tokens the Trainer counts, and the parts that it computes."""
        rows = self._batches[step]
        return {**collate(rows), "micro_batches": [collate(part) for part in micro_batches(rows)]}


class _Progress(TrainerCallback):
    """Emits `progress` after every step, and stops at the first loss that is not finite."""

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

        checkpoints = Path(args.output_dir)
        # All files of the folder, because a resumed run does not write the files of earlier steps again.
        sync_tree(checkpoints)
        checkpoint = checkpoints / f"checkpoint-{state.global_step}"
        write_durably(checkpoint / COMPLETE, _digest(checkpoint))
        self._emit("checkpoint", {"step": state.global_step, "loss": self._loss})


def midway_step(num_steps: int) -> int:
    """Step whose gradients predict influence best: later the rows are fitted and their gradients small."""
    return max(1, round(num_steps / 3))


class _Midway(TrainerCallback):
    """Saves the adapter after a given step, or at the end of a run that stops before it. A run that resumes
    after this step finds the file of the earlier run.
    """

    def __init__(self, step: int, path: Path) -> None:
        self._step = step
        self._path = path

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        is_cut_short = control.should_training_stop and state.global_step < self._step
        if state.global_step == self._step or (is_cut_short and not self._path.exists()):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            weights = get_peft_model_state_dict(model)
            with replacing(self._path) as draft:
                save_file({name: weight.bfloat16() for name, weight in weights.items()}, draft)


def _arguments(config: TrainingConfig, num_steps: int, checkpoints: Path, *, bf16: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=num_steps,
        per_device_train_batch_size=1,  # an item is a whole batch
        train_sampling_strategy="sequential",
        learning_rate=config.learning_rate,
        # transformers' own "constant" ignores the warm-up.
        lr_scheduler_type="constant_with_warmup" if config.scheduler == "constant" else config.scheduler,
        warmup_steps=round(config.warmup_fraction * num_steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would replace NaN by the mean of earlier losses
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=bf16,  # products only: the adapter's weights stay in fp32
        report_to="none",
        disable_tqdm=True,
    )


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _newest_checkpoint(checkpoints: Path) -> Path | None:
    """Also removes incomplete and damaged checkpoints, so that the Trainer's rotation does not count them."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=_step)
    complete = [path for path in found if _is_whole(path)]
    for path in set(found) - set(complete):
        shutil.rmtree(path)
    return complete[-1] if complete else None


def _is_whole(checkpoint: Path) -> bool:
    mark = checkpoint / COMPLETE
    return mark.exists() and mark.read_text() in {"", _digest(checkpoint)}


def _digest(checkpoint: Path) -> str:
    """sha-256 over those of the checkpoint's files, in the order of their names."""
    digest = sha256()
    for path in sorted(checkpoint.iterdir()):
        if path.name != COMPLETE:
            with path.open("rb") as file:
                digest.update(file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _check_weights(model: Any, step: int) -> None:
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise _diverged(f"{name} is not finite after step {step}", step)


def _diverged(what: str, step: int) -> NonFiniteLoss:
    return NonFiniteLoss(f"training diverged: {what}; lower the learning rate", details={"step": step})
