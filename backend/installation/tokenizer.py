"""Tokenises rows as training does, in a child process: the library with the chat templates loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Unavailable
from backend.processes.child import Child, ChildError, module_command
from backend.services.train.estimate import Tokenisation, TokenisedRow

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.training import TrainingConfig
    from backend.services.train.estimate import Rows

CHILD = "workers.training.tokenise"
MAX_SECONDS = 120.0


class TokenizerFailed(Unavailable):
    """The child process failed to tokenise the rows."""


@dataclass(frozen=True, slots=True)
class TokenizerProcess:
    """Implements `backend.services.train.estimate.Tokeniser`. `base_folder` empty: the bundled base model, in
    `model_cache`.
    """

    base_folder: str
    model_cache: Path
    seconds: float = MAX_SECONDS

    def tokenise(self, rows: Rows, config: TrainingConfig, num_examples: int) -> Tokenisation:
        """Errors: `TokenizerFailed`."""
        request = {
            "base_folder": self.base_folder,
            "model_cache": str(self.model_cache.resolve()),
            "max_length": config.max_length,
            "loss_on": config.loss_on,
            "packing": config.packing,
            "num_examples": num_examples,
            "num_rows": len(rows),
        }
        try:
            # Its error output is discarded: it could contain a row.
            with Child(module_command(CHILD), seconds=self.seconds) as child:
                child.send(request, *rows)
                result = child.receive()
        except (ChildError, OSError) as error:
            raise TokenizerFailed("the rows could not be tokenised; try again later") from error
        examples = [TokenisedRow(**row) for row in result.pop("examples")]
        return Tokenisation(**result, examples=examples)
