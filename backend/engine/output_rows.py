"""Error vectors of answers from log-probabilities, for servers that return no states.

The same quantity as `inference.probe.ErrorProbe` computes inside the engine.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from inference.errors import ModelNotFoundError
from inference.model.families import read_architecture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOP_TOKENS = 8
"""As of `inference.probe.TOP_TOKENS`."""
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_LENGTH = struct.Struct("<Q")
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class OutputRows:
    """The output embeddings of a checkpoint, mapped into memory: the system reads the rows that are used."""

    def __init__(self, folder: Path) -> None:
        """Errors: `ModelNotFoundError`, `UnsupportedModelError`."""
        architecture = read_architecture(folder)
        self.hidden_size = architecture.hidden_size
        self._is_bfloat16, self._rows = _map_tensor(
            folder, _EMBEDDING if architecture.has_tied_head else _HEAD
        )

    def read(self, token_ids: Sequence[int]) -> Any:
        """[len(token_ids), hidden] in fp32."""
        import numpy as np

        rows = self._rows[list(token_ids)]
        if self._is_bfloat16:  # the upper half of a float
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)

    def error(self, token_id: int, top: Sequence[tuple[int, float]]) -> Any:
        """[hidden], fp32: gradient of the loss of `token_id` with respect to the state that predicts it.
        `top`: the most likely tokens, and the logarithms of their probabilities.
        """
        import numpy as np

        weights = np.exp(np.array([logprob for _, logprob in top], dtype=np.float32))
        rows = self.read([token_id, *(each for each, _ in top)])
        return weights @ rows[1:] - rows[0]


def _map_tensor(folder: Path, name: str) -> tuple[bool, Any]:
    import numpy as np

    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            entry = json.loads(file.read(length)).get(name)
        if entry is not None and entry["dtype"] in _TYPES:
            start = _LENGTH.size + length + entry["data_offsets"][0]
            kind = _TYPES[entry["dtype"]]
            return entry["dtype"] == "BF16", np.memmap(path, kind, "r", start, tuple(entry["shape"]))
    raise ModelNotFoundError(f"{folder} has no {name} in 16 or 32 bits")
