"""The training process: `python -m workers.training.run --job FOLDER`.

The folder holds `spec.json` and `rows.jsonl`, or `foreign.json` and `brought/`: an adapter that was trained
elsewhere and is to be inspected. It sends messages of its progress to its parent; the last one is `done` or
`failed`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.errors import DomainError
from backend.processes.parent import Parent
from workers.training.disk_full import as_disk_full
from workers.training.folders import alone
from workers.training.spec import ADAPTER, FOREIGN_FILE, RESULT_FILE, ImportSpec, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="workers.training.run", description="Train one adapter.")
    parser.add_argument(
        "--job",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with spec.json and rows.jsonl, or foreign.json",
    )
    folder: Path = parser.parse_args(argv).job
    parent = Parent()

    def emit(kind: str, data: Mapping[str, Any]) -> None:
        parent.send({"kind": kind, "data": dict(data)})

    with alone(folder):
        return _train(folder, emit)


def _train(folder: Path, emit: Any) -> int:
    if not ((folder / RESULT_FILE).exists() and (folder / ADAPTER).is_dir()):
        try:
            _run_job(folder, emit)
        except Exception as error:
            known = error if isinstance(error, DomainError) else as_disk_full(error, folder)
            if known is None:
                raise
            emit("failed", {"code": known.code, "message": known.message, **known.details})
            return 1
    emit("done", json.loads((folder / RESULT_FILE).read_bytes()))
    return 0


def _run_job(folder: Path, emit: Any) -> None:
    if (folder / FOREIGN_FILE).exists():
        foreign = ImportSpec.load(folder)
        _prepare_torch(foreign.num_threads)
        from workers.training.imported import accept

        accept(foreign, folder, emit)
        return
    spec = TrainingSpec.load(folder)
    _prepare_torch(spec.num_threads)
    from workers.training.job import run_job

    run_job(spec, folder, emit)


def _prepare_torch(num_threads: int) -> None:
    # Read when torch starts its pools; the number of threads also decides the order of sums, so it is fixed.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # Threads that spin while they wait for each other take the processor from whatever else runs here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


if __name__ == "__main__":
    sys.exit(main())
