"""Verifies adapters and writes them for a vLLM server: `python -m workers.vllm_adapters`.

A child process of `backend.engine.vllm_adapters`: it answers one message with one. Adapters are untrusted,
and reading them loads torch. Its memory is limited to what the largest adapter that is served needs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from backend.processes.parent import Parent, is_out_of_memory
from inference.protocol import AdapterBlend, AdapterRef

if TYPE_CHECKING:
    from inference.lora.adapter import Adapter
    from inference.lora.blend import Blend


SPARE_BYTES = 256 << 20
"""Memory beyond the matrices: buffers, parsed headers, and what the allocators do not give back."""
ADAPTER_COPIES = 8
"""An adapter's file, its matrices, stacked and transposed, and the bytes that are written, each at most in
32 bits.
"""
WEIGHT_COPIES = 6
"""DoRA's norms are computed from a weight of the base model, in 32 bits."""


class Start(msgspec.Struct, frozen=True):
    """First message. `base_digest`: 64 hex digits; `dtype`: as torch names it."""

    base_folder: str
    base_digest: str
    dtype: str
    max_rank: int


class Export(msgspec.Struct, frozen=True):
    """Write an adapter or a blend into `folder`, for a server that names its base model `base_name`."""

    folder: str
    base_name: str
    adapter: AdapterRef | None = None
    blend: AdapterBlend | None = None


def main() -> None:
    parent = Parent()
    exporter = Exporter(msgspec.convert(parent.receive(), Start))
    parent.limit_further_memory(exporter.needed_bytes())
    while True:
        parent.send(exporter.answer(msgspec.convert(parent.receive(), Export)))


class Exporter:
    def __init__(self, start: Start) -> None:
        import torch

        # What `answer` needs is imported before memory is limited.
        from inference.lora import blend, export  # noqa: F401
        from inference.lora.adapter import AdapterLoader, max_file_bytes
        from inference.model.families import read_architecture
        from inference.model.loader import BaseWeights

        torch.set_num_threads(1)
        folder = Path(start.base_folder)
        self._architecture = read_architecture(folder)
        self._dtype = getattr(torch, start.dtype)
        base = BaseWeights.open(folder, self._architecture, self._dtype)
        self._loader = AdapterLoader(base, start.base_digest, start.max_rank)
        self._max_rank = start.max_rank
        self._max_bytes = max_file_bytes(self._architecture, start.max_rank)

    def needed_bytes(self) -> int:
        """Most memory for an adapter or a blend of the highest rank."""
        from inference.model.architecture import OUTER

        linears = {*(linear for _, linear in self._architecture.linear_keys), *OUTER}
        largest = max(math.prod(self._architecture.linear_shape(linear)) for linear in linears)
        return SPARE_BYTES + ADAPTER_COPIES * self._max_bytes + WEIGHT_COPIES * 4 * largest

    def answer(self, message: Export) -> dict[str, str]:
        """Empty, or the code and the message of a refusal."""
        from inference.errors import AdapterError, AdapterTooLargeError
        from inference.lora.export import export_blend, is_exported

        folder = Path(message.folder)
        if is_exported(folder, message.base_name):
            return {}
        try:
            export_blend(self._blend(message), self._architecture, folder, message.base_name)
        except AdapterError as error:
            return {"code": error.code, "message": str(error)}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"reading it takes more than {self.needed_bytes() >> 20} MB of memory"
            refusal = AdapterTooLargeError(folder.name, reason)
            return {"code": refusal.code, "message": str(refusal)}
        return {}

    def _blend(self, message: Export) -> Blend:
        from inference.lora.blend import build_blend, single_blend

        if message.adapter is not None:
            return single_blend(self._load(message.adapter))
        if message.blend is None:
            raise ValueError("a message names an adapter or a blend")
        parts = [(self._load(part.adapter), part.weight) for part in message.blend.parts]
        return build_blend(message.blend.digest, parts, self._max_rank, self._dtype)

    def _load(self, ref: AdapterRef) -> Adapter:
        return self._loader.load(Path(ref.path), ref.digest, self._max_bytes)


if __name__ == "__main__":
    main()
