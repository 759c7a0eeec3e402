from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.disk.space import DiskSpace
from backend.domain.content import ContentMissing
from backend.domain.errors import DiskFull
from backend.domain.registries import Operator
from backend.ports.outbound import UnexpectedStatus, Unreachable
from backend.services.operator.peers import AWAY_SECONDS, FETCH_SECONDS, LACKS_SECONDS, Peers
from backend.storage.embedded import EmbeddedStore
from tests.support.chain_view import FakeChainView
from tests.support.market import some_account

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

    def get(self, url: str, *, accept: str, max_bytes: int, **_limits: float) -> Iterator[bytes]:
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


class PeersHarness:
    def __init__(self, folder: Path) -> None:
        self.ours, self.theirs = (EmbeddedStore(folder / name, is_durable=False) for name in ("a", "b"))
        self.outbound, self.view, self.now = FakeOutbound(), FakeChainView(), 0.0
        self.own, self.space = some_account("own"), DiskSpace(folder)
        self.peers = Peers(self, self.outbound, self.ours, self.own, self.space, lambda: self.now)  # type: ignore[arg-type]

    @contextmanager
    def read(self) -> Iterator[Any]:
        yield SimpleNamespace(chain=self.view)

    def settle(self, name: str, answer: Any = None, stake: int = 1) -> None:
        """Add an operator with this name and its gateway."""
        self.view.operator_list.append(Operator(some_account(name), f"https://{name}/", (), stake))
        self.outbound.gateways[f"https://{name}"] = answer

    def names(self) -> list[str]:
        return [endpoint.removeprefix("https://") for endpoint, _, _ in self.outbound.asked]


@pytest.fixture
def harness(tmp_path: Path) -> PeersHarness:
    return PeersHarness(tmp_path)


def refusing(error: Exception) -> Any:
    def answer(_cid: str, _kind: str) -> Iterator[bytes]:
        raise error

    return answer


def test_a_folder_is_fetched_whole_from_a_peer_that_has_it_and_stored(harness: PeersHarness) -> None:
    cid = harness.theirs.add_folder(FILES)
    harness.settle("one", gateway(EmbeddedStore(harness.ours._root / "empty", is_durable=False)), stake=9)
    harness.settle("two", gateway(harness.theirs))
    harness.peers.fetch(cid, 1000)
    assert harness.ours.has(cid)
    assert {name: harness.ours.read(cid, name) for name in FILES} == FILES
    assert harness.names() == ["one", "two", "two"]
    harness.peers.fetch(cid, 1000)
    assert len(harness.outbound.asked) == 3


def test_a_copy_may_be_evicted_until_it_is_fetched_to_be_kept(harness: PeersHarness) -> None:
    cid = harness.theirs.add_folder(FILES)
    harness.settle("two", gateway(harness.theirs))
    for _ in range(2):
        harness.peers.fetch_copy(cid, 1000)
        assert harness.ours.read(cid, "card") == FILES["card"]
        harness.ours.evict(cid)
        assert not harness.ours.has(cid)
    harness.peers.fetch_copy(cid, 1000)
    harness.peers.fetch(cid, 1000)
    harness.peers.fetch_copy(cid, 1000)
    harness.ours.evict(cid)
    assert harness.ours.has(cid)
    assert harness.names() == ["two"] * 6


def test_the_preferred_peer_is_asked_first_and_the_own_gateway_never(harness: PeersHarness) -> None:
    cid = harness.theirs.add_folder(FILES)
    harness.settle("own", refusing(AssertionError()), stake=100)
    harness.settle("rich", refusing(AssertionError()), stake=99)
    harness.settle("poor", gateway(harness.theirs))
    harness.peers.fetch(cid, 1000, some_account("poor"))
    assert harness.ours.has(cid)


def test_peers_that_lack_content_or_are_unreachable_are_skipped_for_a_while(harness: PeersHarness) -> None:
    cid, other = harness.theirs.add_folder(FILES), harness.theirs.add_folder({"other": b"1"})
    harness.settle("lacks", refusing(UnexpectedStatus("404")), stake=2)
    harness.settle("away", refusing(Unreachable("no connection")))
    for _ in range(2):
        harness.peers.fetch(cid, 1000)
    assert harness.names() == ["lacks", "away"]
    harness.peers.fetch(other, 1000)
    assert harness.names() == ["lacks", "away", "lacks"]
    harness.now += LACKS_SECONDS
    harness.peers.fetch(cid, 1000)
    assert harness.names()[3:] == ["lacks"]
    harness.now += AWAY_SECONDS
    harness.peers.fetch(cid, 1000)
    assert harness.names()[4:] == ["lacks", "away"]


def test_a_peer_that_is_asked_too_often_lacks_nothing_for_it(harness: PeersHarness) -> None:
    cid, other = harness.theirs.add_folder(FILES), harness.theirs.add_folder({"other": b"1"})
    harness.settle("busy", refusing(UnexpectedStatus("429", details={"status": 429})))
    harness.peers.fetch(cid, 1000)
    harness.peers.fetch(other, 1000)
    assert harness.names() == ["busy"]


def test_nothing_is_fetched_into_the_reserve_of_the_disk(harness: PeersHarness) -> None:
    cid = harness.theirs.add_folder(FILES)
    harness.settle("has it", gateway(harness.theirs))
    harness.peers._space = DiskSpace(harness.space.folder, reserved=1 << 62)
    with pytest.raises(DiskFull):
        harness.peers.fetch(cid, 1_000_000)
    assert not harness.ours.has(cid)


@pytest.mark.parametrize("harm", ["another tree", "a block too many", "a block too few", "a false block"])
def test_a_tree_other_than_the_requested_one_is_discarded(harness: PeersHarness, harm: str) -> None:
    cid = harness.theirs.add_folder(FILES)
    other = harness.theirs.add_folder({"other": b"o" * 10})

    def car(_cid: Cid) -> Iterator[bytes]:
        pieces = list(harness.theirs.car(cid))
        foreign = list(harness.theirs.car(other))
        return iter(
            {
                "another tree": foreign,
                "a block too many": [*pieces, foreign[1]],
                "a block too few": pieces[:-1],
                "a false block": [*pieces[:-1], pieces[-1][:-1] + b"\x00"],
            }[harm]
        )

    harness.settle("liar", gateway(harness.theirs, car), stake=2)
    harness.peers.fetch(cid, 1000)
    assert not harness.ours.has(cid)
    harness.settle("honest", gateway(harness.theirs))
    harness.peers.fetch(cid, 1000)
    assert harness.ours.read(cid, "card") == FILES["card"]


def test_content_without_a_provider_is_reported_on_reading(harness: PeersHarness) -> None:
    cid = harness.theirs.add_folder(FILES)
    harness.peers.fetch(cid, 1000)
    with pytest.raises(ContentMissing):
        harness.ours.read(cid, "card")


def test_the_size_of_a_fetch_is_bounded_independently_of_the_chain(harness: PeersHarness) -> None:
    cid = harness.theirs.add_folder(FILES)
    harness.settle("one", gateway(harness.theirs))
    harness.peers.fetch(cid, 1 << 60)
    assert max(max_bytes for _, _, max_bytes in harness.outbound.asked) == 4 << 30


def test_slow_peers_end_a_fetch_after_a_while(harness: PeersHarness) -> None:
    cid = harness.theirs.add_folder(FILES)

    def slow(_cid: str, _kind: str) -> Iterator[bytes]:
        harness.now += FETCH_SECONDS * 0.6
        raise Unreachable("no answer in time")

    for stake, name in enumerate(("third", "second", "first"), start=1):
        harness.settle(name, slow, stake)
    harness.peers.fetch(cid, 10**6)
    assert harness.names() == ["first", "second"]
    assert not harness.ours.has(cid)
