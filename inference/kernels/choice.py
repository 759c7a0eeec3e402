"""Which kernels an engine runs on."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import torch

from inference.errors import KernelBuildError
from inference.kernels.native import DTYPES, NativeKernels
from inference.kernels.portable import PortableKernels

if TYPE_CHECKING:
    from inference.config import KernelChoice
    from inference.kernels.interface import Kernels

logger = logging.getLogger(__name__)


def choose_kernels(
    choice: KernelChoice, dtype: torch.dtype, device: str, *, batch_invariant: bool = False
) -> Kernels:
    """On a CPU the native ones, on a GPU Triton's; "auto" falls back to plain torch, and says so, where there
    are none.

    `batch_invariant` is known to the native ones alone, so it asks for them. Raises `KernelBuildError` when
    "native" was asked for and cannot be had.
    """
    if batch_invariant:
        choice = "native"
    if choice == "portable":
        return PortableKernels()
    if choice == "auto" and torch.device(device).type == "cuda":
        return _for_gpu(device)
    if torch.device(device).type != "cpu" or dtype not in DTYPES:
        if choice == "native":
            raise KernelBuildError(f"there are no native kernels for {dtype} on {device}")
        return PortableKernels()
    try:
        return NativeKernels(dtype, batch_invariant=batch_invariant)
    except KernelBuildError as error:
        if choice == "native":
            raise
        logger.warning("slower: the native kernels could not be built (%s)", error)
        return PortableKernels()


def _for_gpu(device: str) -> Kernels:
    if importlib.util.find_spec("triton") is None:
        logger.warning("slower with adapters: Triton is not installed (`pip install 'loraledger[gpu]'`)")
        return PortableKernels()
    from inference.kernels.triton_lora import TritonKernels

    return TritonKernels(device)
