"""Adapters made to harm: each is refused by its own error, and the engine serves on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from inference.engine import Engine
from inference.errors import AdapterError
from inference.protocol import AdapterRef, Error
from inference.server.frames import decode_event, encode_frame
from tests.fixtures_engine import greedy, make_adapter, run_all, tiny_config
from tests.support.malicious_adapters import ALL, MARKER, claimed_digest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def good(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    return make_adapter(tmp_path_factory.mktemp("good") / "a", tiny_llama, rank=4)


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Iterator[Engine]:
    """One for all of them: what any leaves behind, the next ones meet."""
    engine = Engine(tiny_config(tiny_llama))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(engine: Engine, good: AdapterRef) -> list[int]:
    return run_all(engine, greedy("g", "innocent", adapter=good))["g"].token_ids


@pytest.mark.parametrize("name", ALL)
def test_it_is_rejected_by_its_own_error_and_other_requests_continue(
    name: str, engine: Engine, good: AdapterRef, expected: list[int], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(good.path, tmp_path / "adapter"))
    ALL[name].corrupt(folder)
    malicious = AdapterRef(claimed_digest(folder), str(folder))
    answers = run_all(engine, greedy("h", adapter=malicious), greedy("g", "innocent", adapter=good))
    error = answers["h"].error
    assert type(error) is ALL[name].error, error
    assert answers["g"].token_ids == expected
    assert engine.status().active_adapters == engine.status().resident_adapters == [good.digest]
    assert not (tmp_path / MARKER).exists()
    assert len(str(error)) < 1000
    message = Error("h", error.code, str(error))
    assert decode_event(encode_frame(message)[4:]) == message


def kinds_of(error: type[AdapterError]) -> list[type[AdapterError]]:
    return [error, *(kind for sub in error.__subclasses__() for kind in kinds_of(sub))]


def test_every_adapter_error_has_a_distinct_code_and_is_documented() -> None:
    codes = [kind.code for kind in kinds_of(AdapterError)]
    manual = (Path(__file__).parents[4] / "docs" / "engine.md").read_text()
    assert len(set(codes)) == len(codes) >= 20
    assert sorted(re.findall(r"^\| `(adapter_\w+)` \|", manual, re.MULTILINE)) == sorted(codes)


def test_an_error_that_quotes_what_no_encoding_holds_can_still_be_sent() -> None:
    error = AdapterError("\ud800" * 1000, "\udfff")
    assert msgspec.json.decode(msgspec.json.encode(str(error))) == str(error)
