"""The training process: `python -m workers.training.run --job FOLDER`.

The folder holds `spec.json` and `rows.jsonl`; or, to validate an imported adapter, `import.json` and
`uploaded/`; or, to verify a published attribution index, `verification.json`. The process sends events to
its parent; the last message is `done` or `failed`.
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
from workers.training.disk_full import disk_full_error
from workers.training.folders import lock_folder
from workers.training.memory import memory_limit, out_of_memory_error
from workers.training.spec import (
    IMPORT_FILE,
    RESULT_FILE,
    VERIFICATION_FILE,
    ImportSpec,
    TrainingSpec,
    VerificationSpec,
    has_adapter,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="workers.training.run", description="Train one adapter.")
    parser.add_argument(
        "--job",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with spec.json and rows.jsonl, import.json, or verification.json",
    )
    folder: Path = parser.parse_args(argv).job
    parent = Parent(memory_bytes=memory_limit())

    def emit(kind: str, data: Mapping[str, Any]) -> None:
        parent.send({"kind": kind, "data": dict(data)})

    with lock_folder(folder):
        return _train(folder, emit)


def _train(folder: Path, emit: Any) -> int:
    if not _is_done(folder):
        try:
            _run_job(folder, emit)
        except Exception as error:
            known = error if isinstance(error, DomainError) else None
            failure = known or disk_full_error(error, folder) or _out_of_memory(error, folder)
            if failure is None:
                raise
            emit("failed", {"code": failure.code, "message": failure.message, **failure.details})
            return 1
    emit("done", json.loads((folder / RESULT_FILE).read_bytes()))
    return 0


def _is_done(folder: Path) -> bool:
    result = folder / RESULT_FILE
    return result.exists() and has_adapter(folder, json.loads(result.read_bytes())["adapter_digest"])


def _out_of_memory(error: Exception, folder: Path) -> DomainError | None:
    if (folder / VERIFICATION_FILE).exists():
        return out_of_memory_error(error, "verify the index on a machine with more memory")
    return out_of_memory_error(error)


def _run_job(folder: Path, emit: Any) -> None:
    if (folder / VERIFICATION_FILE).exists():
        verification_spec = VerificationSpec.load(folder)
        _prepare_torch(verification_spec.num_threads)
        from workers.training.verification import recompute_index

        write_json(folder / RESULT_FILE, recompute_index(verification_spec, folder, emit))
        return
    if (folder / IMPORT_FILE).exists():
        import_spec = ImportSpec.load(folder)
        _prepare_torch(import_spec.num_threads)
        from workers.training.imported import validate_import

        validate_import(import_spec, folder, emit)
        return
    spec = TrainingSpec.load(folder)
    _prepare_torch(spec.num_threads)
    from workers.training.job import run_job

    run_job(spec, folder, emit)


def _prepare_torch(num_threads: int) -> None:
    # Read when torch starts its pools. The number of threads determines the order of sums, so it is fixed.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # Threads that spin while they wait for each other take processor time from other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


if __name__ == "__main__":
    sys.exit(main())
