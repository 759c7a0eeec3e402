"""A worker whose jobs only take time: `python busy_worker.py HOME BROKER_URL`.

A job's id is its seconds. A line for each one that ran; as with leases, a job does not run again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from workers.app import create_app, work

if TYPE_CHECKING:
    from backend.domain.training import Step

done: set[str] = set()


def run(_step: Step, job_id: str) -> None:
    if job_id not in done:
        time.sleep(float(job_id))
        done.add(job_id)
        print(job_id, file=sys.__stdout__, flush=True)  # Celery sends `sys.stdout` to its log


if __name__ == "__main__":
    home, broker_url = sys.argv[1:]
    steps: Any = SimpleNamespace(run=run, stop=lambda: None)
    work(create_app(Path(home), broker_url), steps, ["train"])
