from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from backend.chain.client import ChainClient
from backend.chain.local_node import LocalNode, command, wait_until_ready
from backend.deployment.local import deploy_local
from backend.domain.chain import ChainReplaced
from backend.domain.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from pathlib import Path


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


def test_missing_tools_say_how_to_install_them(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="make setup"):
        command(1, root=tmp_path)
