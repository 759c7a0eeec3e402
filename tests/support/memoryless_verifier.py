"""The process that verifies adapters for vLLM, with memory for none."""

from __future__ import annotations

from workers import vllm_adapters


class Exporter(vllm_adapters.Exporter):
    def needed_bytes(self) -> int:
        return 0


if __name__ == "__main__":
    vllm_adapters.Exporter = Exporter  # type: ignore[misc]
    vllm_adapters.main()
