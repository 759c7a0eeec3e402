"""Converts GGUF files to Hugging Face folders, once: the dequantised weights are cached as safetensors."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_MAGIC = b"GGUF"
_ARCHITECTURES = frozenset({"gemma3", "llama", "mistral", "qwen2", "qwen3"})
_FULL_PRECISION = frozenset({"F16", "F32", "F64"})


def is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def convert_gguf(path: Path, name: str, cache_dir: Path) -> Path:
    """Convert to the folder `name` under `cache_dir`, keyed by the file's content, unless it exists. Atomic.

    Raises `ModelNotFoundError` for a damaged file, `UnsupportedModelError` for a model of another family.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_dir / digest[:16] / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / "lock"):
        if not folder.is_dir():
            scratch = Path(tempfile.mkdtemp(prefix="draft.", dir=folder.parent))
            try:
                _convert(path, scratch)
                scratch.chmod(0o755)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    dtype, num_tensors = _examine(path)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        source |= {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
        loaded: Any = AutoModelForCausalLM.from_pretrained(**source, output_loading_info=True)
    except Exception as error:  # the file is untrusted, and its readers raise errors of any type
        raise ModelNotFoundError(f"{path} cannot be converted: {error!r}; fetch it again") from error
    model, report = loaded
    # The library initialises missing tensors randomly, with a warning, and drops unknown ones silently.
    if report["missing_keys"]:
        raise UnsupportedModelError(f"{path} lacks {', '.join(sorted(report['missing_keys']))}")
    num_loaded = len(list(model.parameters()))
    if num_tensors != num_loaded:
        raise UnsupportedModelError(
            f"{path} holds {num_tensors} tensors, of which {num_loaded} are supported"
        )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _examine(path: Path) -> tuple[torch.dtype, int]:
    """Data type for the converted weights, and the number of tensors. Raises `UnsupportedModelError` for
    content that the conversion would drop.

    bf16 is precise enough for quantised weights; weights in full precision keep theirs.
    """
    import torch

    from inference.model.gguf_reader import BoundedGGUFReader

    try:
        reader = BoundedGGUFReader(path)
        kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        fields = {name: field.contents() for name, field in reader.fields.items() if _is_relevant(name)}
    except Exception as error:  # as above
        raise ModelNotFoundError(f"{path} is not a complete GGUF file: {error!r}; fetch it again") from error
    architecture = fields.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UnsupportedModelError(f"{path}: {architecture!r} is not one of {sorted(_ARCHITECTURES)}")
    if fields.get(f"{architecture}.expert_count"):
        raise UnsupportedModelError(f"{path}: mixtures of experts are not supported")
    scaling = fields.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in kinds:
        raise UnsupportedModelError(
            f"{path}: its rotary scaling has no counterpart in config.json; use the model's safetensors"
        )
    matrices = {kind for name, kind in kinds.items() if "norm" not in name and name.endswith(".weight")}
    return torch.float32 if matrices <= _FULL_PRECISION else torch.bfloat16, len(kinds)


def _is_relevant(field: str) -> bool:
    return field.endswith(("general.architecture", ".expert_count", ".rope.scaling.type"))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
