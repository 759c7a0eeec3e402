from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.content import ContentMissing
from backend.domain.registries import Operator
from backend.ports.outbound import UnexpectedStatus, Unreachable
from backend.services.operator.peers import AWAY_SECONDS, LACKS_SECONDS, Peers
from backend.storage.embedded import EmbeddedStore
from tests.support.market import some_account
from tests.support.scripted import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.domain.ids import Cid

FILES = {"weights": b"w" * 700_000, "card": b"card"}


class FakeOutbound:
    """Gateways by endpoint; each answers a path and a format, or raises."""

    def __init__(self) -> None:
        self.gateways: dict[str, Callable[[str, str], Iterator[bytes]]] = {}
        self.asked: list[tuple[str, str, int]] = []

    def get(self, url: str, *, accept: str, max_bytes: int, seconds: float) -> Iterator[bytes]:
        endpoint, _, rest = url.partition("/ipfs/")
        cid, _, kind = rest.partition("?format=")
        self.asked.append((endpoint, kind, max_bytes))
        return self.gateways[endpoint](cid, kind)


def gateway(store: EmbeddedStore, car: Callable[[Cid], Iterator[bytes]] | None = None) -> Any:
    def answer(cid: Any, kind: str) -> Iterator[bytes]:
        if not store.has(cid):
            raise UnexpectedStatus("404", details={"status": 404})
        return iter([store.block(cid)]) if kind == "raw" else (car or store.car)(cid)

    return answer


class Town:
    def __init__(self, folder: Path) -> None:
        self.ours, self.theirs = (EmbeddedStore(folder / name, is_durable=False) for name in ("a", "b"))
        self.outbound, self.view, self.now = FakeOutbound(), View(), 0.0
        self.own = some_account("own")
        self.peers = Peers(self, self.outbound, self.ours, self.own, lambda: self.now)  # type: ignore[arg-type]

    @contextmanager
    def read(self) -> Iterator[Any]:
        yield SimpleNamespace(chain=self.view)

    def settle(self, name: str, answer: Any = None, stake: int = 1) -> None:
        """An operator of this name, with its gateway."""
        self.view.operator_list.append(Operator(some_account(name), f"https://{name}/", (), stake))
        self.outbound.gateways[f"https://{name}"] = answer

    def names(self) -> list[str]:
        return [endpoint.removeprefix("https://") for endpoint, _, _ in self.outbound.asked]


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def refusing(error: Exception) -> Any:
    def answer(_cid: str, _kind: str) -> Iterator[bytes]:
        raise error

    return answer


def test_a_folder_comes_whole_from_whoever_has_it_and_is_kept(town: Town) -> None:
    cid = town.theirs.add_folder(FILES)
    town.settle("one", gateway(EmbeddedStore(town.ours._root / "empty", is_durable=False)), stake=9)
    town.settle("two", gateway(town.theirs))
    town.peers.fetch(cid, 1000)
    assert town.ours.has(cid)
    assert {name: town.ours.read(cid, name) for name in FILES} == FILES
    assert town.names() == ["one", "two", "two"]
    town.peers.fetch(cid, 1000)
    assert len(town.outbound.asked) == 3


def test_who_is_named_is_asked_first_and_we_never_ask_ourselves(town: Town) -> None:
    cid = town.theirs.add_folder(FILES)
    town.settle("own", refusing(AssertionError()), stake=100)
    town.settle("rich", refusing(AssertionError()), stake=99)
    town.settle("poor", gateway(town.theirs))
    town.peers.fetch(cid, 1000, some_account("poor"))
    assert town.ours.has(cid)


def test_who_lacks_a_content_or_is_away_is_left_alone_for_a_while(town: Town) -> None:
    cid, other = town.theirs.add_folder(FILES), town.theirs.add_folder({"other": b"1"})
    town.settle("lacks", refusing(UnexpectedStatus("404")), stake=2)
    town.settle("away", refusing(Unreachable("nobody")))
    for _ in range(2):
        town.peers.fetch(cid, 1000)
    assert town.names() == ["lacks", "away"]
    town.peers.fetch(other, 1000)
    assert town.names() == ["lacks", "away", "lacks"]
    town.now += LACKS_SECONDS
    town.peers.fetch(cid, 1000)
    assert town.names()[3:] == ["lacks"]
    town.now += AWAY_SECONDS
    town.peers.fetch(cid, 1000)
    assert town.names()[4:] == ["lacks", "away"]


@pytest.mark.parametrize("harm", ["another tree", "a block too many", "a block too few", "a false block"])
def test_nothing_is_kept_of_what_is_not_the_tree_that_was_asked_for(town: Town, harm: str) -> None:
    cid = town.theirs.add_folder(FILES)
    other = town.theirs.add_folder({"other": b"o" * 10})

    def car(_cid: Cid) -> Iterator[bytes]:
        pieces = list(town.theirs.car(cid))
        foreign = list(town.theirs.car(other))
        return iter(
            {
                "another tree": foreign,
                "a block too many": [*pieces, foreign[1]],
                "a block too few": pieces[:-1],
                "a false block": [*pieces[:-1], pieces[-1][:-1] + b"\x00"],
            }[harm]
        )

    town.settle("liar", gateway(town.theirs, car), stake=2)
    town.peers.fetch(cid, 1000)
    assert not town.ours.has(cid)
    town.settle("honest", gateway(town.theirs))
    town.peers.fetch(cid, 1000)
    assert town.ours.read(cid, "card") == FILES["card"]


def test_that_nobody_has_it_is_said_where_it_is_read(town: Town) -> None:
    cid = town.theirs.add_folder(FILES)
    town.peers.fetch(cid, 1000)
    with pytest.raises(ContentMissing):
        town.ours.read(cid, "card")


def test_what_may_come_is_bounded_whatever_the_chain_says(town: Town) -> None:
    cid = town.theirs.add_folder(FILES)
    town.settle("one", gateway(town.theirs))
    town.peers.fetch(cid, 1 << 60)
    assert max(max_bytes for _, _, max_bytes in town.outbound.asked) == 4 << 30
