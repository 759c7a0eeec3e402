"""Configuration of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

DType = Literal["float32", "bfloat16", "float16"]
PrefixSharing = Literal["off", "payer", "all"]
Quantization = Literal["none", "int8"]
KernelBackend = Literal["auto", "native", "portable"]
MIB = 1024 * 1024
_FORMATS: dict[DType, str] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Budgets and limits of one engine. Sizes in bytes, lengths in tokens."""

    model_path: Path
    dtype: DType = "bfloat16"
    quantization: Quantization = "none"  # of the decoder's linear layers, head and adapters
    device: str = "cpu"
    num_threads: int = 2
    kernels: KernelBackend = "auto"
    batch_invariant: bool = False  # a request gets the same bits in any batch, at the cost of speed
    max_context: int | None = None  # None: the limit of the model and of the KV budget
    max_running: int = 32
    max_waiting: int = 1024
    max_waiting_tokens: int = 1024 * 1024  # prompt tokens of waiting requests; a longer prompt may wait alone
    max_step_tokens: int = 512
    prompt_lookup: bool = True  # propose tokens that followed an earlier occurrence of the latest ones
    kv_block_size: int = 16
    kv_budget_bytes: int = 1024 * MIB
    prefix_sharing: PrefixSharing = "payer"  # "all" lets a payer detect the prompts of others by timing
    num_adapter_slots: int = 32
    num_adapter_rows: int = 1024  # sum of the ranks of all active adapters
    max_rank: int = 128
    adapter_budget_bytes: int = 1024 * MIB
    num_loader_threads: int = 2

    @property
    def weight_format(self) -> str:
        """Of linear layers, head and adapters, as payers read it."""
        return _FORMATS[self.dtype] if self.quantization == "none" else self.quantization

    def __post_init__(self) -> None:
        limits = ("max_running", "max_waiting", "max_waiting_tokens", "max_step_tokens")
        for name in ("num_threads", "kv_block_size", *limits):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.quantization == "int8" and self.device != "cpu":
            raise ValueError(f"int8 weights are served on CPUs, not on {self.device}; choose none")
        if self.batch_invariant and (self.device != "cpu" or self.kernels == "portable"):
            raise ValueError("batch_invariant needs native kernels on a CPU")
        if self.max_rank > self.num_adapter_rows:
            raise ValueError(f"max_rank {self.max_rank} exceeds num_adapter_rows {self.num_adapter_rows}")
        if self.num_adapter_slots < 1 or self.num_loader_threads < 1:
            raise ValueError("num_adapter_slots and num_loader_threads must be at least 1")
