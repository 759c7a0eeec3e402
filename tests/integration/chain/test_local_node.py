from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backend.chain.client import ChainClient
from backend.chain.local_node import LocalNode, command, wait_until_ready
from backend.deployment.local import deploy_local
from backend.domain.chain import ChainReplaced
from backend.domain.errors import NotFound, Unavailable
from tests.support.waiting import wait_for


def test_a_restarted_node_is_another_chain(tmp_path: Path) -> None:
    with LocalNode.start(tmp_path / "first.log") as node:
        deployment = deploy_local(node.url)
        port = int(node.url.rsplit(":", 1)[1])
    assert node.process.returncode is not None
    with LocalNode.start(tmp_path / "second.log", port) as node:
        client = ChainClient.connect(node.url, deployment)
        with pytest.raises(ChainReplaced):
            client.check()
        client.close()


def test_a_node_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom backend.chain.local_node import LocalNode\n"
        "print(LocalNode.start(Path(sys.argv[1])).url, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "node.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline().rsplit(":", 1)[1])
        parent.kill()
    with socket.socket() as probe:
        assert wait_for(lambda: probe.connect_ex(("127.0.0.1", port)))


def test_a_port_in_use_is_refused(hardhat_node: LocalNode, tmp_path: Path) -> None:
    port = int(hardhat_node.url.rsplit(":", 1)[1])
    with pytest.raises(Unavailable, match=f"port {port} of 127.0.0.1 is in use"):
        LocalNode.start(tmp_path / "taken.log", port)


def test_a_node_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(Unavailable, match=re.escape(str(log))):
        wait_until_ready("http://127.0.0.1:9", ended, log)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory far from the source tree, on a machine without npm."""
    monkeypatch.setattr("backend.chain.local_node.ROOT", tmp_path / "site-packages")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(path: Path, prints: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {prints}\n")
    path.chmod(0o755)


def test_without_hardhat_one_line_says_what_to_install(elsewhere: Path) -> None:
    with pytest.raises(
        NotFound, match=r"^the local chain needs Hardhat: .*npm install hardhat@3.*--rpc-url$"
    ):
        command(1, elsewhere / "project")
    assert not (elsewhere / "project").exists()


def test_hardhat_of_the_current_folder_comes_before_npm_s_global_one(elsewhere: Path) -> None:
    hardhat = Path("hardhat", "dist", "src", "cli.js")
    program(elsewhere / "bin" / "npm", str(elsewhere / "global"))
    program(elsewhere / "bin" / "node", "v24.1.0")
    program(elsewhere / "global" / hardhat, "")
    node, *_ = command(1, elsewhere / "project")
    assert node == str(elsewhere / "bin" / "node")
    assert (elsewhere / "project" / "node_modules").resolve() == elsewhere / "global"
    program(elsewhere / "node_modules" / hardhat, "")
    program(elsewhere / "node_modules" / ".bin" / "node", "v24.1.0")
    node, *_ = command(1, elsewhere / "project")
    assert node == str(elsewhere / "node_modules" / ".bin" / "node")
    assert (elsewhere / "project" / "node_modules").resolve() == elsewhere / "node_modules"


def test_an_old_node_is_named(elsewhere: Path) -> None:
    program(elsewhere / "node_modules" / "hardhat" / "dist" / "src" / "cli.js", "")
    with pytest.raises(NotFound, match=r"needs Node\.js: "):
        command(1, elsewhere / "project")
    program(elsewhere / "bin" / "node", "v20.20.2")
    with pytest.raises(NotFound, match=r"than v20\.20\.2: "):
        command(1, elsewhere / "project")
