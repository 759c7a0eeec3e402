"""Celery's file-system transport, with messages that appear whole.

The library creates a message's file under its final name and then writes it: a worker that looks in between
reads nothing, and dies of it.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]
        # The library takes a queue's messages in the order of their names.
        name = f"{time.time_ns():020d}_{uuid.uuid4()}.{queue}.msg"
        final = Path(self.data_folder_out) / name
        scratch = final.with_name(f"{name}.partial")
        scratch.write_text(json.dumps(payload), encoding="utf-8")
        scratch.replace(final)


class Transport(filesystem.Transport):
    Channel = Channel
