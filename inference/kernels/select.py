"""Selects the kernels of an engine by device, dtype and configuration."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import torch

from inference.errors import KernelBuildError
from inference.kernels.factors import PortableFactorReader
from inference.kernels.native import DTYPES, NativeFactorReader, NativeKernels
from inference.kernels.portable import PortableKernels

if TYPE_CHECKING:
    from inference.config import KernelBackend, Quantization
    from inference.kernels.factors import FactorReader
    from inference.kernels.interface import Kernels

logger = logging.getLogger(__name__)


def select_kernels(
    backend: KernelBackend,
    dtype: torch.dtype,
    device: str,
    quantization: Quantization = "none",
    *,
    batch_invariant: bool = False,
) -> Kernels:
    """Native kernels on a CPU, Triton's on a GPU; "auto" falls back to plain torch, with a warning, where
    they are not available.

    Only the native kernels support `batch_invariant`, so it implies them. Raises `KernelBuildError` when the
    native kernels, or their products with weights of this `quantization`, are required and not available.
    """
    is_required = backend == "native"
    if batch_invariant:
        backend = "native"
    if backend == "portable":
        return PortableKernels()
    if backend == "auto" and torch.device(device).type == "cuda":
        return _gpu_kernels(device)
    if torch.device(device).type != "cpu" or dtype not in DTYPES:
        if backend == "native":
            raise KernelBuildError(f"there are no native kernels for {dtype} on {device}")
        logger.warning(
            "slower: there are no native kernels for %s on %s; plain torch computes", dtype, device
        )
        return PortableKernels()
    try:
        kernels = NativeKernels(dtype, batch_invariant=batch_invariant)
    except KernelBuildError as error:
        if backend == "native":
            raise
        logger.warning("slower: the native kernels could not be built (%s)", error)
        return PortableKernels()
    if quantization == "int8" and not kernels.has_int8_products:
        found = "this CPU lacks it" if dtype == torch.bfloat16 else f"this is {dtype}"
        lack = f"products with int8 weights need bfloat16 and a CPU with AVX2, or AVX-512 and VNNI; {found}"
        if is_required:
            raise KernelBuildError(lack)
        logger.warning("slower: %s; plain torch computes them", lack)
    return kernels


def select_factor_reader(backend: KernelBackend, dtype: torch.dtype) -> FactorReader:
    """The native reader where it supports `dtype` and can be built, else plain torch. Adapters are read on
    the CPU for engines on any device.

    Raises `KernelBuildError` when the native reader is required and not available.
    """
    if backend == "portable":
        return PortableFactorReader()
    if dtype not in DTYPES:
        if backend == "native":
            raise KernelBuildError(f"there are no native kernels for {dtype} on cpu")
        return PortableFactorReader()
    try:
        return NativeFactorReader(dtype)
    except KernelBuildError as error:
        if backend == "native":
            raise
        logger.warning("slower: adapters are loaded without the native kernels (%s)", error)
        return PortableFactorReader()


def _gpu_kernels(device: str) -> Kernels:
    if importlib.util.find_spec("triton") is None:
        logger.warning("slower with adapters: Triton is not installed (`pip install 'loraledger[gpu]'`)")
        return PortableKernels()
    from inference.kernels.triton_lora import TritonKernels

    return TritonKernels(device)
