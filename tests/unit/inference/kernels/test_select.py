from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import pytest
import torch

from inference.errors import KernelBuildError
from inference.kernels.portable import PortableKernels
from inference.kernels.select import select_kernels

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def test_a_gpu_gets_tritons_kernels() -> None:
    assert type(select_kernels("auto", torch.bfloat16, "cuda:0")).__name__ == "TritonKernels"


def test_without_triton_a_gpu_uses_plain_torch_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def find_spec(_: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with caplog.at_level(logging.WARNING):
        assert type(select_kernels("auto", torch.bfloat16, "cuda")) is PortableKernels
    assert "loraledger[gpu]" in caplog.text


def test_portable_means_plain_torch_wherever() -> None:
    for device in ("cpu", "cuda"):
        assert type(select_kernels("portable", torch.float32, device)) is PortableKernels


@pytest.mark.parametrize(("dtype", "device"), [(torch.float16, "cpu"), (torch.bfloat16, "mps")])
def test_auto_says_that_plain_torch_computes_where_there_are_no_native_kernels(
    dtype: torch.dtype, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert type(select_kernels("auto", dtype, device)) is PortableKernels
    assert f"no native kernels for {dtype} on {device}" in caplog.text


def test_native_kernels_are_refused_where_there_are_none() -> None:
    for dtype, device in ((torch.bfloat16, "cuda"), (torch.float16, "cpu")):
        with pytest.raises(KernelBuildError, match="no native kernels"):
            select_kernels("native", dtype, device)
