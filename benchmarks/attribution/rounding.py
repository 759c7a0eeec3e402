"""Measures what rounding changes in an attribution index: `python -m benchmarks.attribution.rounding`.

A training job publishes an adapter of a study's rows, computed in bf16. Then its index is computed again in
fp32, the largest change of rounding that another processor makes. The tolerances of `loraledger attribution
verify` are at least twice the differences. Each study is stored when it is done.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.attribution.command import add_docs, make_parser, run, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from workers.training.progress import Emit

ROUNDING = "rounding"
"""Key of the report."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return run(lambda: _measure(options), options.threads)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """By study."""
    from benchmarks.attribution import page

    found = {}
    for name in options.study:
        found[name] = measure_rounding(name, options.work / ROUNDING / name, options.threads, show)
        page.add(options.docs, ROUNDING, name, found[name])
    return found


def measure_rounding(
    name: str, job: Path, num_threads: int, emit: Emit, base_folder: str = ""
) -> dict[str, Any]:
    """Fields of `Recomputed` for an adapter of the study `name`, trained in the folder `job` unless it is
    already, and the processor. An empty `base_folder` selects the bundled base model.

    Errors: `ValueError` on a processor that trains in fp32.
    """
    import torch

    from benchmarks.engine import machine
    from inference.lora.files import adapter_digest
    from workers.training.fit import compute_dtype
    from workers.training.spec import ADAPTER, RESULT_FILE, VerificationSpec
    from workers.training.verification import recompute_index

    if compute_dtype() != torch.bfloat16:
        raise ValueError("this processor trains in fp32, so there is no index in bf16 to compare with")
    cache = str(job.parent.parent / "models")
    if not (job / RESULT_FILE).exists():
        _train(name, job, num_threads, emit, cache, base_folder)
    folder = job / ADAPTER
    spec = VerificationSpec(
        str(folder), adapter_digest(folder), cache, base_folder, num_threads, has_rows=True, in_fp32=True
    )
    return {**recompute_index(spec, job, emit), "cpu": machine.describe()["cpu"]}


def _train(name: str, job: Path, num_threads: int, emit: Emit, cache: str, base_folder: str) -> None:
    """An adapter of the rows that the study's contributors give, with the default options."""
    from backend.domain.training import TrainingConfig
    from benchmarks.attribution.data import contributed_rows
    from workers.training.job import run_job
    from workers.training.spec import ROWS_FILE, TrainingSpec

    job.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"contribution": place, "row": row}) for place, row in contributed_rows(name))
    (job / ROWS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = TrainingSpec(f"ftjob-{name}", TrainingConfig(), (), (), cache, base_folder, num_threads)
    run_job(spec, job, emit)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("benchmarks.attribution.rounding", __doc__)
    add_docs(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
