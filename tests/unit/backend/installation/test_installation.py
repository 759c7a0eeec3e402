from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from backend.cli.operator.replicas import show
from backend.domain.errors import InvalidInput, NotFound, Unavailable
from backend.engine.replicas import Replicas
from backend.installation.base_model import BaseModelInfo, check_distinct
from backend.installation.installation import Installation
from backend.installation.local_network import engine_command, gradients_command
from backend.ports.engine import EngineState, EngineUnavailable
from backend.settings import BaseEntry, Settings
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account

TINY = BaseModelInfo("tiny", some_hash("tiny"), "/models/tiny")


def test_attributors_prefer_distilled_maps_and_fall_back_to_uniform(tmp_path: Path) -> None:
    methods = [each.method for each in Installation(Settings(home=tmp_path)).attribution.methods]
    assert methods == ["distilled-1", "distilled-error-1", "error-ridge-1", "hidden-cosine-1", "uniform-1"]


def test_own_engines_are_replicas_with_a_socket_each(tmp_path: Path) -> None:
    installation = Installation(Settings(home=tmp_path, engine_replicas=2))
    assert list(installation.engines.replicas) == ["1", "2"]
    [base] = installation.settings.served
    assert [path.name for path in base.sockets.values()] == ["engine.sock", "engine-2.sock"]


def test_a_single_engine_is_watched_as_a_replica(tmp_path: Path) -> None:
    installation = Installation(Settings(home=tmp_path))
    installation.save_base_model(TINY)
    found = installation.engines.by_base[TINY.digest]
    assert isinstance(found, Replicas)


def test_replicas_are_drained_by_name(tmp_path: Path) -> None:
    installation = Installation(Settings(home=tmp_path, engine_replicas=2))
    assert installation.engines.drained() == []
    installation.engines.drain("2")
    assert Installation(installation.settings).engines.drained() == ["2"]
    installation.engines.resume("2")
    installation.engines.resume("1")
    assert installation.engines.drained() == []
    with pytest.raises(NotFound, match="there are 1, 2"):
        installation.engines.drain("3")


class FakeEngine:
    """Has so many requests in its batch and its queue; with `None` it is down."""

    def __init__(self, running: int | None, waiting: int = 0) -> None:
        self.running, self.waiting = running, waiting

    async def state(self) -> EngineState:
        if self.running is None:
            raise EngineUnavailable("no connection")
        return EngineState()

    async def metrics(self, _: float) -> str:
        labels = '{engine="0",model_name="base"}'
        numbers = {"running": self.running, "waiting": self.waiting}
        return "".join(f"vllm:num_requests_{name}{labels} {number}\n" for name, number in numbers.items())


def test_replicas_are_shown_with_what_they_have_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installation = Installation(Settings(home=tmp_path, engine_replicas=4))
    engines = dict(
        zip("1234", (FakeEngine(2, 1), FakeEngine(0), FakeEngine(1), FakeEngine(None)), strict=True)
    )
    installation.engines.__dict__["_groups"] = [engines]
    installation.engines.drain("2")
    installation.engines.drain("3")
    monkeypatch.setattr("backend.cli.operator.replicas.open_installation", lambda: nullcontext(installation))
    show()
    states = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()]
    assert states == ["up, 3 requests", "up, drained, idle", "up, drained, 1 request", "down"]


def test_the_operators_balance_is_in_the_metrics_while_it_sends_nothing(tmp_path: Path) -> None:
    installation, account = Installation(Settings(home=tmp_path)), some_account("operator")
    node = SimpleNamespace(balance=lambda _: 7, fees=lambda: SimpleNamespace(max_fee=1))
    installation.__dict__ |= {
        "chain": SimpleNamespace(node=node),
        "database": SimpleNamespace(send_queue=lambda: nullcontext(SimpleNamespace(lanes=list))),
        "operator": SimpleNamespace(account=account),
        "relay_budget": None,
    }
    installation.sender.run_once()
    assert REGISTRY.get_sample_value("loraledger_account_wei", {"sender": account}) == 7


def test_a_sender_whose_remote_signer_is_down_starts_and_waits_for_it(tmp_path: Path) -> None:
    class Away:
        @property
        def account(self) -> Account:
            raise Unavailable("the signer does not answer")

    installation = Installation(Settings(home=tmp_path))
    installation.__dict__ |= {
        "chain": SimpleNamespace(node=None),
        "database": SimpleNamespace(send_queue=lambda: nullcontext(SimpleNamespace(lanes=list))),
        "operator": Away(),
        "relay_budget": None,
    }
    sender = installation.sender
    with pytest.raises(Unavailable, match="does not answer"):
        sender.run_once()
    sender.run_once()  # without a question to the signer at each pass


def test_urls_of_servers_are_checked() -> None:
    for url in ("127.0.0.1:8001", "http://a:1?b", "http://a:1/b#c", "http:///b"):
        with pytest.raises(ValueError, match="no URL of a server"):
            Settings(engine_urls=url)
    settings = Settings(engine_urls="http://a:1/, http://b:2, http://b:2/c/")
    assert settings.served[0].urls == ("http://a:1", "http://b:2", "http://b:2/c")


def test_each_base_has_engines_of_its_own_which_are_numbered_through(tmp_path: Path) -> None:
    bases = (BaseEntry(model="/models/tiny", replicas=2), BaseEntry(model="/models/large"))
    installation = Installation(Settings(home=tmp_path, bases=bases))
    large = BaseModelInfo("large", some_hash("large"), "/models/large", "/models/large")
    installation.save_base_model(TINY)
    installation.save_base_model(large, 2)
    assert list(installation.engines.replicas) == ["1", "2", "3"]
    assert list(installation.engines.by_base) == [TINY.digest, large.digest]
    assert list(installation.engines.by_name) == ["tiny", "large"]
    swapped = Installation(Settings(home=tmp_path, bases=bases[::-1]))
    with pytest.raises(NotFound, match=r"base_model-2.json is of '/models/large', but the settings name"):
        _ = swapped.base_models


def test_two_bases_of_one_name_or_digest_are_refused() -> None:
    with pytest.raises(InvalidInput, match="two base models have the name 'tiny'"):
        check_distinct([TINY, replace(TINY, digest=some_hash("large"))])
    with pytest.raises(InvalidInput, match="two base models have the digest"):
        check_distinct([TINY, replace(TINY, name="large")])


def test_each_process_loads_the_base_of_its_number(tmp_path: Path) -> None:
    bases = (BaseEntry(model="/models/tiny", replicas=2), BaseEntry(model="/models/large"))
    settings = Settings(home=tmp_path, bases=bases)
    for (command, _), socket, model in (
        (engine_command(settings, 2), "engine-2.sock", "/models/tiny"),
        (engine_command(settings, 3), "engine-3.sock", "/models/large"),
        (gradients_command(settings, 2), "gradients-2.sock", "/models/large"),
    ):
        assert str(tmp_path / "run" / socket) in command
        assert model in command
    with pytest.raises(NotFound, match="no own engine 4: the settings name 3"):
        engine_command(settings, 4)
    with pytest.raises(NotFound, match="no base model 3: the settings name 2"):
        gradients_command(settings, 3)


def test_bases_without_prices_are_not_prepared(tmp_path: Path) -> None:
    bases = (BaseEntry(model="/models/tiny", prices=(1, 2)), BaseEntry(model="/models/large"))
    with pytest.raises(InvalidInput, match="state --prices, or `prices` of each base"):
        Installation(Settings(home=tmp_path, bases=bases)).prepare_offers()
