"""Rows as training tokenises them, by a child process: the library that knows chat templates loads torch."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.errors import Overloaded, Unavailable
from backend.processes.child import Child, ChildError, module_command
from backend.services.train.estimate import ShownRow, Tokenised

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.training import TrainingConfig
    from backend.services.train.estimate import Rows

CHILD = "workers.training.tokenise"
MOST_SECONDS = 120.0
WAIT_SECONDS = 30.0


class TokeniserBroken(Unavailable):
    """The rows could not be tokenised here and now."""


@dataclass(frozen=True, slots=True)
class ChildTokeniser:
    """Implements `backend.services.train.estimate.Tokeniser`; one at a time, since each takes a model's
    libraries into memory. `base_folder` empty: the bundled base model, kept in `model_cache`.
    """

    base_folder: str
    model_cache: Path
    seconds: float = MOST_SECONDS
    wait_seconds: float = WAIT_SECONDS
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def tokenise(self, rows: Rows, config: TrainingConfig, num_shown: int) -> Tokenised:
        """Errors: `Overloaded`, `TokeniserBroken`."""
        if not self._turn.acquire(timeout=self.wait_seconds):
            raise Overloaded("other estimates are being made; ask again in a moment")
        try:
            return self._ask(rows, config, num_shown)
        finally:
            self._turn.release()

    def _ask(self, rows: Rows, config: TrainingConfig, num_shown: int) -> Tokenised:
        asked = {
            "base_folder": self.base_folder,
            "model_cache": str(self.model_cache.resolve()),
            "max_length": config.max_length,
            "loss_on": config.loss_on,
            "packing": config.packing,
            "num_shown": num_shown,
            "rows": rows,
        }
        try:
            # Its errors are discarded: they could show a row.
            with Child(module_command(CHILD), seconds=self.seconds) as child:
                child.send(asked)
                found = child.receive()
        except (ChildError, OSError) as error:
            raise TokeniserBroken("the rows could not be tokenised; ask again later") from error
        shown = [ShownRow(**row) for row in found.pop("shown")]
        return Tokenised(**found, shown=shown)
