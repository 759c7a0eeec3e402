"""Reads the tensors of a Hugging Face folder lazily. Safetensors only, because pickle can run code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from inference.errors import ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import torch
    from torch import Tensor

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Checkpoint:
    """A folder's tensors by name. Files stay mapped, so any thread may read at any time."""

    def __init__(self, folder: Path) -> None:
        """Raises `ModelNotFoundError` for a folder without readable safetensors."""
        self._folder = folder
        self._file_by_name: dict[str, Any] = {}
        self._used: set[str] = set()
        for path in weight_files(folder):
            try:
                file = safe_open(path, framework="pt", device="cpu")
            except (OSError, SafetensorError) as error:
                raise ModelNotFoundError(
                    f"cannot read {path}: missing, truncated or not safetensors ({error}); fetch it again"
                ) from error
            names: list[str] = file.keys()  # type: ignore[no-untyped-call]  # the library has no types
            self._file_by_name.update(dict.fromkeys(names, file))

    def __contains__(self, name: str) -> bool:
        return name in self._file_by_name

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Raises `UnsupportedModelError` if the tensor is missing or has another shape."""
        file = self._file_by_name.get(name)
        if file is None:
            raise UnsupportedModelError(f"the checkpoint {self._folder} has no tensor {name}")
        self._used.add(name)
        tensor: Tensor = file.get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise UnsupportedModelError(
                f"{name} has shape {list(tensor.shape)}, config.json says {list(shape)}"
            )
        if not tensor.is_floating_point():
            raise UnsupportedModelError(f"{name} holds {tensor.dtype}; use a checkpoint in 16 or 32 bits")
        return tensor.to(dtype)

    def check_all_used(self, ignored: Collection[str] = ()) -> None:
        """Raises `UnsupportedModelError` for unused tensors: without them it would be another model."""
        unused = sorted(name for name in self._file_by_name.keys() - self._used if not _is_derived(name))
        unused = [name for name in unused if name not in ignored]
        if unused:
            names = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
            raise UnsupportedModelError(
                f"{self._folder} holds {len(unused)} tensors that this decoder does not use: {names}"
            )


def _is_derived(name: str) -> bool:
    """Old checkpoints store rotary frequencies, which follow from config.json."""
    return name.endswith("rotary_emb.inv_freq")


def weight_files(folder: Path) -> list[Path]:
    """The files that have the model's tensors: a folder may hold others, such as the weights in another
    layout. Raises `ModelNotFoundError`.
    """
    if (folder / _WEIGHTS).exists():
        return [folder / _WEIGHTS]
    index = folder / _INDEX
    if not index.exists():
        raise ModelNotFoundError(f"{folder} holds no {_WEIGHTS} and no {_INDEX}{_hint(folder)}")
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(f"{index} is not an index of safetensors files: {error!r}") from error
    if any(not isinstance(name, str) or "/" in name or name.startswith(".") for name in names):
        raise ModelNotFoundError(f"{index} points outside its folder")
    return [folder / name for name in names]


def _hint(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLE_SUFFIXES)
    if not pickles:
        return ""
    return (
        f", only {pickles[0]}: pickle can run code and is never read. If you trust it, convert it once "
        "with transformers: `AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)`"
    )
