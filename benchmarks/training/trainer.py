"""Compares our training with the Trainer of transformers: the same rows, epochs and learning rate.

Both train LoRA on every linear layer of the bundled base model, on docstring rows, in alternation. The
Trainer uses its defaults but for the weights' type, which is ours: it loads the model with `from_pretrained`,
shuffles, and pads each batch of 8 to its longest row. Speed counts the tokens of the rows without padding.
Our speed only counts if the result is no worse: both adapters are evaluated on the same held-out rows, in
fp32.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.training import TrainingConfig
from backend.services.contribute.docstrings import build_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from benchmarks.training.capture import Overhead
    from inference.config import DType

PACKAGES = ("json", "asyncio", "email", "logging")
NUM_HELD_OUT = 32
LOSS_TOLERANCE = 0.01
"""Relative. A different order of rows changes the loss of a short run by about as much."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Size of the comparison. An empty `base_folder` selects the bundled base model, stored in `cache`."""

    num_rows: int
    repeats: int
    num_threads: int
    epochs: int
    cache: Path
    base_folder: str = ""
    arithmetic: DType = "bfloat16"
    """That of the attribution index."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training: non-padding tokens per second of wall and of processor time; loss in nats per token."""

    tokens_per_second: float
    tokens_per_processor_second: float
    eval_loss: float


@dataclass(frozen=True, slots=True)
class Comparison:
    ours: tuple[Run, ...]
    plain: tuple[Run, ...]

    @property
    def by_clock(self) -> float:
        """Median over the repeats of the ratio of our speed to the Trainer's."""
        return self._median(lambda run: run.tokens_per_second)

    @property
    def by_processor(self) -> float:
        return self._median(lambda run: run.tokens_per_processor_second)

    @property
    def is_no_worse(self) -> bool:
        """Whether our eval loss is at most the Trainer's, within `LOSS_TOLERANCE`. Otherwise speed does not
        count.
        """
        ours, plain = (statistics.median(run.eval_loss for run in runs) for runs in (self.ours, self.plain))
        return ours <= plain * (1 + LOSS_TOLERANCE)

    def _median(self, speed: Callable[[Run], float]) -> float:
        return statistics.median(speed(a) / speed(b) for a, b in zip(self.ours, self.plain, strict=True))


class _Setup:
    """Rows, base model and tokenizer, shared by both trainings."""

    def __init__(self, plan: Plan) -> None:
        from inference.model.sources import resolve_model
        from inference.tokenization.load import load_tokenizer
        from workers.training.rows import encode

        self.config = TrainingConfig(epochs=plan.epochs)
        self.folder = resolve_model(plan.base_folder, plan.cache)
        self.tokenizer = load_tokenizer(self.folder)
        rows = [row for package in PACKAGES for row in build_dataset(package).rows]
        step = len(rows) / (plan.num_rows + NUM_HELD_OUT)
        chosen = [rows[int(i * step)] for i in range(plan.num_rows + NUM_HELD_OUT)]
        examples = [encode(0, row, self.tokenizer, self.config.max_length) for row in chosen]
        every = len(examples) // NUM_HELD_OUT
        self.held_out = examples[::every][:NUM_HELD_OUT]
        self.rows = [example for example in examples if example not in self.held_out]

    def timed(self, model: Any, train: Callable[[], object]) -> Run:
        from workers.training.evaluate import mean_loss

        num_tokens = self.config.epochs * sum(len(example.token_ids) for example in self.rows)
        clock, processor = time.perf_counter(), time.process_time()
        train()
        seconds, processor_seconds = time.perf_counter() - clock, time.process_time() - processor
        loss = mean_loss(model.float(), self.held_out, _ignore)
        return Run(num_tokens / seconds, num_tokens / processor_seconds, loss)


def measure_training(plan: Plan, work: Path) -> tuple[Overhead, Comparison]:
    """Measure capture, then compare the trainers. A module-level function, to be run in a child process."""
    from benchmarks.training.capture import measure_capture

    arguments = plan.num_rows, plan.num_threads, plan.base_folder, work, plan.repeats, plan.arithmetic
    with redirect_stdout(sys.stderr):  # the plain Trainer prints its own report
        return measure_capture(*arguments), compare(plan, work / "trainer")


def compare(plan: Plan, work: Path) -> Comparison:
    import torch

    torch.set_num_threads(plan.num_threads)
    setup = _Setup(plan)
    ours: list[Run] = []
    plain: list[Run] = []
    for repeat in range(plan.repeats):
        turns = [(ours, _ours), (plain, _plain)]
        for runs, train in turns if repeat % 2 else reversed(turns):
            shutil.rmtree(work, ignore_errors=True)
            runs.append(train(setup, work))
    shutil.rmtree(work, ignore_errors=True)
    return Comparison(tuple(ours), tuple(plain))


def _ours(setup: _Setup, work: Path) -> Run:
    from workers.training.fit import fit, lora_model

    model = lora_model(setup.folder, setup.config)
    return setup.timed(model, lambda: fit(model, setup.rows, setup.config, work, _ignore))


def _plain(setup: _Setup, work: Path) -> Run:
    """Train as documented by transformers, with our learning rate, warm-up and epochs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from workers.training.fit import compute_dtype

    config = setup.config
    set_seed(config.seed)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.alpha, target_modules="all-linear"
    )
    # The stored type, bfloat16, takes many times as long on CPUs without instructions for it.
    base = AutoModelForCausalLM.from_pretrained(setup.folder, dtype=compute_dtype())
    model = get_peft_model(base, lora)
    num_steps = -(-len(setup.rows) // 8) * config.epochs
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=round(config.warmup_fraction * num_steps),
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),  # without a GPU it only warns
    )
    rows = [{"input_ids": list(row.token_ids), "labels": list(row.labels)} for row in setup.rows]
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(setup.tokenizer),
    )
    return setup.timed(model, trainer.train)


def _ignore(kind: str, data: Mapping[str, Any]) -> None:
    """Discard progress."""
