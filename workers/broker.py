"""Celery's file-system transport with atomic writes.

kombu creates a message's file under its final name and then writes it. A worker that reads the file in
between finds it empty and crashes.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem

from backend.disk.files import replacing


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]
        # kombu reads a queue's messages in the order of their file names.
        name = f"{time.time_ns():020d}_{uuid.uuid4()}.{queue}.msg"
        with replacing(Path(self.data_folder_out) / name) as draft:
            draft.write_text(json.dumps(payload), encoding="utf-8")


class Transport(filesystem.Transport):
    Channel = Channel
