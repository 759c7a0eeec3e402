"""A real vLLM server, started by the command of docs/vllm.md."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from backend.chain.local_node import ROOT
from backend.loopback import free_port
from benchmarks.peers import VLLM_PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POINT, POINT_AMONG_SEVERAL = 1, 2
"""Numbers of the page's blocks with settings."""
PAGE = ROOT / "docs" / "vllm.md"
START_SECONDS = 900
# Of the tests alone: this build computes on a processor, which others use too.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def page_commands(page: Path = PAGE) -> list[str]:
    """Code blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def start_script() -> str:
    """The page's command, without torch.compile, which takes longer than a test."""
    return page_commands()[0].rstrip() + " --enforce-eager --max-num-seqs 16\n"


def page_variables(model: Path, adapters: Path, dtype: str) -> dict[str, str]:
    """All but the port."""
    assert VLLM_PYTHON.exists(), f"vLLM is missing: {VLLM_PYTHON}; install it by `make vllm`"
    return {"MODEL": str(model), "ADAPTERS": str(adapters), "PYTHON": str(VLLM_PYTHON), "DTYPE": dtype}


def page_settings(number: int, variables: dict[str, str]) -> dict[str, str]:
    """What a block of the page exports before it runs `loraledger doctor`."""
    script = page_commands()[number].replace("loraledger doctor", "env --null")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={"PATH": os.defpath, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (variable.partition("=") for variable in done.stdout.split("\0"))
    return {name: value for name, _, value in pairs if name.startswith("LORALEDGER_")}


@contextmanager
def vllm_server(
    model: Path, adapters: Path, dtype: str, log: Path, port: int | None = None
) -> Iterator[dict[str, str]]:
    """Run a server for the block; yields the page's variables. Without `port`, a free one."""
    variables = page_variables(model, adapters, dtype) | {"PORT": str(port or free_port())}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", start_script()],
            env=os.environ | ENVIRONMENT | variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, f"http://127.0.0.1:{variables['PORT']}/health", log)
        yield variables
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.HTTPError:
            pass
        tail = log.read_text(errors="replace")[-3000:]
        assert process.poll() is None, f"vLLM ended:\n{tail}"
        assert time.monotonic() < deadline, f"vLLM did not start in {START_SECONDS} s:\n{tail}"
        time.sleep(1)
