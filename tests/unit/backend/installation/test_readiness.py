"""Faults of parts that are not ready."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import threading
import time
from collections import namedtuple
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from backend.chain.keys import local_account
from backend.deployment.deployment_file import save_deployment
from backend.domain.deployment import LOCAL_CHAIN_ID, Deployment
from backend.domain.errors import Unavailable
from backend.domain.money import GWEI
from backend.installation import readiness
from backend.installation.base_model import BaseModelInfo
from backend.installation.installation import Installation
from backend.installation.operator_readiness import OPERATOR_PARTS
from backend.installation.readiness import PARTS, Part, Readiness, faults
from backend.installation.signing_keys import LOCAL_WATCHER
from backend.settings import BaseEntry, Settings
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from pathlib import Path

Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil's
INSIDE = ("sql", "select", "no such table", "operationalerror", "errno", "traceback", "chain_checkpoints")
"""Internal terms that must not be shown to unauthenticated callers."""


def test_every_faulty_part_is_named_with_its_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = faults(Installation(Settings(home=tmp_path)), PARTS)
    assert found.keys() == {"database", "chain", "indexer", "engine"}
    texts = {name: fault.text for name, fault in found.items()}
    for part in PARTS:
        assert texts.get(part.name, part.remedy).endswith(part.remedy)
    assert not [word for word in INSIDE for text in texts.values() if word in text.lower()]
    assert not any(fault.is_partial for fault in found.values())
    assert "no such table" in caplog.text


def test_a_vllm_server_that_is_down_is_a_fault_without_its_address(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, engine_urls="http://127.0.0.1:1, http://127.0.0.1:2/")
    found = faults(Installation(settings), PARTS)["engine"]
    assert found.text.startswith("No engine answers.")
    assert "127.0.0.1" not in found.text
    assert not found.is_partial


def test_bases_without_an_engine_are_named_and_a_fault_of_their_requests_alone(tmp_path: Path) -> None:
    bases = (
        BaseEntry(model="a"),
        BaseEntry(model="/models/b", urls=("http://127.0.0.1:1",)),
        BaseEntry(model="c"),
    )
    settings = Settings(home=tmp_path, bases=bases)
    path = settings.served[0].sockets[1]
    path.parent.mkdir()
    nothing = faults(Installation(settings), PARTS)["engine"]
    assert nothing.text.startswith("No engine answers.")
    assert not nothing.is_partial
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        found = faults(Installation(settings), PARTS)["engine"]
    assert found.text.startswith("No engine of b, c answers: requests for it get 503, others are answered.")
    assert found.is_partial


def test_servers_that_hang_are_waited_for_together(tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        urls = [f"http://127.0.0.1:{server.getsockname()[1]}" for server in silent]
        bases = (BaseEntry(model="a", urls=tuple(urls[:2])), BaseEntry(model="b", urls=tuple(urls[2:])))
        began = time.monotonic()
        assert "engine" in faults(Installation(Settings(home=tmp_path, bases=bases)), PARTS)
    assert time.monotonic() - began < readiness.PART_SECONDS


class Probes:
    """Answers when it may; counts what it was asked."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.may_answer = threading.Event()

    def check(self) -> None:
        self.num_asked += 1
        self.may_answer.wait(10)
        raise Unavailable("It is away.")


def ready(_subject: Probes) -> None:
    return


SLOW = Part("slow", Probes.check, "It is odd.", "Start it.")
READY = Part("ready", ready, "It is odd.", "Start it.")


async def test_all_who_ask_share_one_check_and_hold_no_thread_of_the_api() -> None:
    probes = Probes()
    checks = Readiness(probes, (SLOW, READY))
    asked = [asyncio.create_task(checks.faults()) for _ in range(100)]
    await asyncio.sleep(0.05)
    assert [thread.name for thread in threading.enumerate()].count("readiness") <= 2
    probes.may_answer.set()
    found = await asyncio.gather(*asked, checks.faults())
    assert [list(one) for one in found] == [["slow"]] * 101
    assert found[0]["slow"].text == "It is away. Start it."
    assert probes.num_asked == 1


async def test_what_was_found_is_kept_for_a_second() -> None:
    now, probes = 100.0, Probes()
    probes.may_answer.set()
    checks = Readiness(probes, (SLOW,), lambda: now)
    for _ in range(4):
        await checks.faults()
        now += 0.5
    assert probes.num_asked == 2


async def test_a_part_that_hangs_is_a_fault_and_is_not_asked_again_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "PART_SECONDS", 0.1)
    monkeypatch.setattr(readiness, "KEPT_SECONDS", 0)
    probes = Probes()
    checks = Readiness(probes, (SLOW, READY))
    for _ in range(2):
        found = await checks.faults()
        assert found.keys() == {"slow"}
        assert found["slow"].text == "Its check has not ended within 0.1 s. Start it."
        assert not found["slow"].is_partial
    assert probes.num_asked == 1
    probes.may_answer.set()
    assert (await checks.faults())["slow"].text == "It is away. Start it."


def test_missing_requirements_on_the_chain_are_reported_with_their_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(Settings(home=tmp_path))
    found = faults(installation, OPERATOR_PARTS)
    assert found.keys() == {"operator", "gas", "base"}
    for part in OPERATOR_PARTS:
        assert found[part.name].text.endswith(part.remedy)
    status = SimpleNamespace(obstacles=("no stake covers a batch", "no gas"))
    installation.__dict__["membership"] = SimpleNamespace(status=lambda: status)
    found = faults(installation, OPERATOR_PARTS)
    assert found["operator"].text.startswith(
        "The operator cannot settle: no stake covers a batch; no gas. Run `loraledger"
    )
    status.obstacles = ()
    assert faults(installation, OPERATOR_PARTS).keys() == {"gas", "base"}


WATCHER = local_account(LOCAL_WATCHER)


@pytest.mark.parametrize(
    ("watcher", "wei", "short"),
    [
        ("", 10_000_000 * GWEI, []),
        ("", 10_000_000 * GWEI - 1, ["operator"]),
        (WATCHER.account, 10_000_000 * GWEI, []),
        (WATCHER.account, 0, ["operator", "watcher"]),
    ],
)
def test_accounts_that_cannot_pay_for_gas_are_named(
    tmp_path: Path, watcher: str, wei: int, short: list[str]
) -> None:
    installation = Installation(Settings(home=tmp_path, watcher=watcher))
    installation.__dict__["operator"] = local_account(1)
    installation.__dict__["watcher_key"] = WATCHER
    installation.__dict__["chain"] = SimpleNamespace(gas_price=lambda: GWEI, balance=lambda _: wei)
    fault = faults(installation, OPERATOR_PARTS).get("gas")
    text = fault.text if fault else ""
    assert re.findall(r"the (operator|watcher) 0x", text) == short
    if short:
        assert "10,000,000 gas cost 0.010000000 of the chain's coin" in text


def test_a_base_model_without_a_registered_record_is_a_fault(tmp_path: Path) -> None:
    deployment = Deployment(LOCAL_CHAIN_ID, 1, some_hash("block"), {"Settlement": some_account("settlement")})
    save_deployment(deployment, tmp_path / "deployment.json")
    installation = Installation(Settings(home=tmp_path))
    try:
        installation.prepare_database()
        assert "no " + str(tmp_path / "base_model.json") in base_fault(installation)
        installation.save_base_model(BaseModelInfo("Tiny", some_hash("base"), "/models/Tiny"))
        assert base_fault(installation).startswith(
            "The model 'Tiny' does not exist here. Run `loraledger operator"
        )
    finally:
        installation.close()


def base_fault(installation: Installation) -> str:
    return faults(installation, OPERATOR_PARTS)["base"].text


def test_a_database_url_with_a_password_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql://market:secret@127.0.0.1:1/market"
    found = faults(Installation(Settings(home=tmp_path, database_url=url)), PARTS)
    assert found["database"].text.startswith("The database of this installation is not reachable.")
    assert "secret" not in str(found)


def test_an_almost_full_disk_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 10 << 20))
    assert "has 10 MB left" in faults(Installation(Settings(home=tmp_path)), PARTS)["disk"].text


def test_a_missing_home_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    assert "is not accessible" in faults(Installation(Settings(home=tmp_path / "gone")), PARTS)["disk"].text
