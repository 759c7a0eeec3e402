"""`python -m workers [QUEUE ...]`: one worker, for all queues or for those named."""

from __future__ import annotations

import sys

from backend.settings import load_settings
from workers.app import QUEUES, run_worker

if __name__ == "__main__":
    run_worker(load_settings(), tuple(sys.argv[1:]) or QUEUES)
