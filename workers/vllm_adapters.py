"""Verifies adapters and writes them for a vLLM server: `python -m workers.vllm_adapters`.

A child process of `backend.engine.vllm_adapters`: it answers one message with one. Adapters are untrusted,
and reading them loads torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from backend.processes.parent import Parent
from inference.protocol import AdapterBlend, AdapterRef

if TYPE_CHECKING:
    from inference.lora.adapter import Adapter
    from inference.lora.blend import Blend


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
    while True:
        parent.send(exporter.answer(msgspec.convert(parent.receive(), Export)))


class Exporter:
    def __init__(self, start: Start) -> None:
        import torch

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

    def answer(self, message: Export) -> dict[str, str]:
        """Empty, or the code and the message of a refusal."""
        from inference.errors import AdapterError
        from inference.lora.export import export_blend, is_exported

        folder = Path(message.folder)
        if is_exported(folder, message.base_name):
            return {}
        try:
            export_blend(self._blend(message), self._architecture, folder, message.base_name)
        except AdapterError as error:
            return {"code": error.code, "message": str(error)}
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
