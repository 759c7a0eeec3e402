"""Our training beside the Trainer of transformers with its defaults: the same rows, epochs and learning rate.

Both train LoRA on every linear layer of the bundled base model, on docstring rows, taking turns. Theirs loads
the model as `from_pretrained` does, shuffles, and pads each batch of 8 to its longest row. A pace counts the
tokens of the rows, padding not, and ours only if what it leads to is no worse: both adapters are measured
on the same held-out rows, in fp32.
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

PACKAGES = ("json", "asyncio", "email", "logging")
NUM_HELD_OUT = 32
LOSS_TOLERANCE = 0.01
"""Relative. Batches of other rows move the loss after a short run by about as much."""


@dataclass(frozen=True, slots=True)
class Race:
    """`base_folder` empty: the bundled base model, kept in `cache`."""

    num_rows: int
    repeats: int
    num_threads: int
    epochs: int
    cache: Path
    base_folder: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One training: non-padding tokens a second, by the clock and by the processor's time; nats per token."""

    tokens_per_second: float
    tokens_per_processor_second: float
    eval_loss: float


@dataclass(frozen=True, slots=True)
class Outcome:
    ours: tuple[Run, ...]
    plain: tuple[Run, ...]

    @property
    def by_clock(self) -> float:
        """The median over repeats of our pace to theirs of the same repeat."""
        return self._median(lambda run: run.tokens_per_second)

    @property
    def by_processor(self) -> float:
        return self._median(lambda run: run.tokens_per_processor_second)

    @property
    def is_no_worse(self) -> bool:
        """Without this our pace does not count: ours is the eval loss that theirs is, or a lower one."""
        ours, plain = (statistics.median(run.eval_loss for run in runs) for runs in (self.ours, self.plain))
        return ours <= plain * (1 + LOSS_TOLERANCE)

    def _median(self, pace: Callable[[Run], float]) -> float:
        return statistics.median(pace(a) / pace(b) for a, b in zip(self.ours, self.plain, strict=True))


class _Field:
    """The rows, and what both trainings need of the base model."""

    def __init__(self, race: Race) -> None:
        from transformers import AutoTokenizer

        from inference.model.sources import resolve_model
        from workers.training.rows import encode

        self.config = TrainingConfig(epochs=race.epochs)
        self.folder = resolve_model(race.base_folder, race.cache)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        rows = [row for package in PACKAGES for row in build_dataset(package).rows]
        step = len(rows) / (race.num_rows + NUM_HELD_OUT)
        chosen = [rows[int(i * step)] for i in range(race.num_rows + NUM_HELD_OUT)]
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


def measure_training(options: Race, work: Path) -> tuple[Overhead, Outcome]:
    """What capture adds, then the race. To be run in a process of its own, which finds this by its module."""
    from benchmarks.training.capture import measure_capture

    parts = options.num_rows, options.num_threads, options.base_folder, work, options.repeats
    with redirect_stdout(sys.stderr):  # the plain Trainer prints its own report
        return measure_capture(*parts), race(options, work / "trainer")


def race(options: Race, work: Path) -> Outcome:
    import torch

    torch.set_num_threads(options.num_threads)
    field = _Field(options)
    ours: list[Run] = []
    plain: list[Run] = []
    for repeat in range(options.repeats):
        turns = [(ours, _ours), (plain, _plain)]
        for runs, train in turns if repeat % 2 else reversed(turns):
            shutil.rmtree(work, ignore_errors=True)
            runs.append(train(field, work))
    shutil.rmtree(work, ignore_errors=True)
    return Outcome(tuple(ours), tuple(plain))


def _ours(field: _Field, work: Path) -> Run:
    from workers.training.fit import fit, lora_model

    model = lora_model(field.folder, field.config)
    return field.timed(model, lambda: fit(model, field.rows, field.config, work, _ignore))


def _plain(field: _Field, work: Path) -> Run:
    """As the documentation has it. What decides the loss is ours: learning rate, warm-up, epochs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    config = field.config
    set_seed(config.seed)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.alpha, target_modules="all-linear"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(field.folder), lora)
    num_steps = -(-len(field.rows) // 8) * config.epochs
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=round(config.warmup_fraction * num_steps),
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),  # where there is none it only warns
    )
    rows = [{"input_ids": list(row.token_ids), "labels": list(row.labels)} for row in field.rows]
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(field.tokenizer),
    )
    return field.timed(model, trainer.train)


def _ignore(kind: str, data: Mapping[str, Any]) -> None:
    """Where nobody watches."""
