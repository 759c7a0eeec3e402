"""Compiles the kernels in `cpp/` for this machine on first use, and caches the library."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import torch

from inference.errors import KernelBuildError
from inference.kernels.cpu import this_cpu

SOURCES = Path(__file__).with_name("cpp")
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fopenmp",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
)


def load_library() -> ctypes.CDLL:
    """Load the library, compiling it first if it is not cached. Raises `KernelBuildError`."""
    path = _library_path()
    try:
        if not path.exists():
            _compile(path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelBuildError(f"cannot write or load {path}: {error}") from error


def _library_path() -> Path:
    """The name is a digest of all inputs, so that changed sources or another CPU give a new file."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    content = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        content.update(source.read_bytes())
    # Machines with different instruction sets may share the cache.
    content.update(repr((_FLAGS, _compiler(), _runtime(), sorted(this_cpu().features))).encode())
    return cache / "loraledger" / "kernels" / f"native-{content.hexdigest()[:16]}.so"


def _compile(path: Path) -> None:
    """Compile atomically: of concurrent processes, each replaces the file by an equal one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        object_file, library = Path(scratch, "native.o"), Path(scratch, "native.so")
        _run([_compiler(), *_FLAGS, "-c", str(SOURCES / "native.cpp"), "-o", str(object_file)])
        _run([_compiler(), "-shared", str(object_file), "-o", str(library), _runtime()])
        library.replace(path)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelBuildError(f"cannot run {command[0]}: {error}") from error
    except subprocess.CalledProcessError as error:
        raise KernelBuildError(f"{command[0]} failed: {error.stderr.strip()[-2000:]}") from error


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


def _runtime() -> str:
    """Torch's OpenMP library if it bundles one: two libraries would have two pools of spinning threads."""
    bundled = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    return str(bundled[0]) if bundled else "-fopenmp"
