"""Measures what rounding changes in an attribution index: `python -m benchmarks.attribution.rounding`.

A training job publishes an adapter of a study's rows. Then its index is computed again by one thread, for
which torch and its libraries use no newer instructions than SSE 4, and the engine none of its own kernels.
The tolerances of `loraledger attribution verify` are at least ten times the differences. What a forger could
move within them is measured on another study's rows (`benchmarks.attribution.forgery`). Each study is stored
when it is done.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from benchmarks.attribution.command import STUDIES, add_docs, make_parser, run, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from workers.training.progress import Emit

ROUNDING = "rounding"
"""Key of the report."""
PLAINEST = (
    "ATEN_CPU_CAPABILITY=default",
    "ONEDNN_MAX_CPU_ISA=SSE41",
    "MKL_ENABLE_INSTRUCTIONS=SSE4_2",
    "CXX=false",
)
"""Environment that restricts the instructions of torch and of its libraries, and has the engine compute by
torch instead of its own kernels, which no compiler builds then.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return run(lambda: _measure(options), options.threads)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """By study."""
    from benchmarks.attribution import page

    found = {}
    for name in options.study:
        other = STUDIES[(STUDIES.index(name) + 1) % len(STUDIES)]
        job = options.work / ROUNDING / name
        found[name] = measure_rounding(name, other, job, options.threads, show)
        page.add(options.docs, ROUNDING, name, found[name])
    return found


def measure_rounding(
    name: str, other: str, job: Path, num_threads: int, emit: Emit, base_folder: str = ""
) -> dict[str, Any]:
    """Fields of `Recomputed` for an adapter of the study `name`, trained in the folder `job` unless it is
    already; `forged`, what a forger could move on rows of the study `other`; and the processor. An empty
    `base_folder` selects the bundled base model.

    Errors: `ValueError` if the index cannot be computed again.
    """
    from benchmarks.attribution.forgery import measure_forgery
    from benchmarks.engine import machine
    from workers.training.spec import ADAPTER, RESULT_FILE

    cache = str(job.parent.parent / "models")
    if not (job / RESULT_FILE).exists():
        _train(name, job, num_threads, emit, cache, base_folder)
    recomputed = _recompute(job, emit, cache, base_folder)
    forged = measure_forgery(job / ADAPTER, job, other, base_folder, cache, num_threads, emit)
    return {**recomputed, "forged": {"study": other, **forged}, "cpu": machine.describe()["cpu"]}


def _recompute(job: Path, emit: Emit, cache: str, base_folder: str) -> dict[str, Any]:
    """What another processor computes, in a process of its own."""
    from inference.lora.files import adapter_digest
    from workers.training.spec import ADAPTER, RESULT_FILE, ROWS_FILE, VerificationSpec
    from workers.training.supervise import supervise, training_command

    folder, again = (job / ADAPTER).resolve(), job / "again"
    again.mkdir(exist_ok=True)
    (again / RESULT_FILE).unlink(missing_ok=True)
    (again / ROWS_FILE).write_bytes((job / ROWS_FILE).read_bytes())
    spec = VerificationSpec(str(folder), adapter_digest(folder), cache, base_folder, 1, has_rows=True)
    spec.save(again)
    command = ["env", *PLAINEST, *training_command(again)]
    message = supervise(command, again, lambda: True, lambda event: emit(event.kind, event.data))
    if message is None or message.kind != "done":
        raise ValueError(f"the index of {job} cannot be computed again: {message and message.data}")
    return dict(message.data)


def _train(name: str, job: Path, num_threads: int, emit: Emit, cache: str, base_folder: str) -> None:
    """An adapter of the rows that the study's contributors give, with the default options."""
    from backend.domain.training import TrainingConfig
    from benchmarks.attribution.data import write_rows
    from workers.training.job import run_job
    from workers.training.spec import ROWS_FILE, TrainingSpec

    job.mkdir(parents=True, exist_ok=True)
    write_rows(name, job / ROWS_FILE)
    spec = TrainingSpec(f"ftjob-{name}", TrainingConfig(), (), (), cache, base_folder, num_threads)
    run_job(spec, job, emit)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("benchmarks.attribution.rounding", __doc__)
    add_docs(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
