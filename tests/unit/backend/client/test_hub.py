"""Adapters on a hub, which is one on loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from backend.client.hub import (
    Hub,
    HubAdapterRefused,
    HubFileChanged,
    HubReference,
    NotAHub,
    matching_base,
    stated_base,
)
from backend.domain.adapter_files import CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE
from backend.domain.errors import DomainError, InvalidInput, NotFound, Unavailable
from tests.support.hub import running_hub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import hub as double

COMMIT = "1" * 40
CONFIG = json.dumps({"base_model_name_or_path": "owner/Tiny"}).encode()
FILES = {CONFIG_FILE: CONFIG, WEIGHTS_FILE: b"weights", "README.md": b"# card", "tokenizer.json": b"{}"}
INFO = "/api/models/owner/name/revision/main"


@pytest.fixture
def server() -> Iterator[double.Hub]:
    with running_hub(dict(FILES), COMMIT) as found:
        yield found


@pytest.fixture
def hub(server: double.Hub) -> Iterator[Hub]:
    with Hub(server.url) as found:
        yield found


def test_a_reference_names_repository_and_revision() -> None:
    assert HubReference.parse("hf:owner/name") == HubReference("owner/name", "main")
    assert HubReference.parse("hf:owner/name@refs/pr/1").revision == "refs/pr/1"
    assert HubReference.parse(f"hf:owner/name@{COMMIT}").is_pinned
    assert not HubReference.parse("hf:owner/name@111").is_pinned


@pytest.mark.parametrize(
    "text", ["hf:", "hf:name", "hf:a/b/c", "hf:../name", "hf:owner/name@", "hf:owner/name@../x", "hf:a/b?c"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="hf:owner/name@revision"):
        HubReference.parse(text)


def test_a_branch_is_resolved_to_a_commit_and_two_files_are_downloaded(
    server: double.Hub, hub: Hub, tmp_path: Path
) -> None:
    server.card = {"license": "Apache-2.0", "tags": ["Verse", "base_model:x", 7, "verse", "a b"]}
    found = hub.find(HubReference("owner/name"))
    assert (found.commit, found.licence, found.num_bytes) == (COMMIT, "apache-2.0", len(CONFIG) + 7)
    assert found.tags == ("verse", "7")
    assert str(found) == f"hf:owner/name@{COMMIT}"
    hub.download(found, tmp_path, ["other", "tiny"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        name: FILES[name] for name in MAX_BYTES
    }
    assert [path for path in server.paths if "resolve" in path] == [
        f"/owner/name/resolve/{COMMIT}/{name}" for name in MAX_BYTES
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("training_args.bin", "pickle"),
        ("checkpoint-9/optimizer.PT", "pickle"),
        ("modeling_evil.py", "code"),
        ("lib/x.so", "code"),
    ],
)
def test_a_repository_with_code_or_pickles_is_refused_by_the_files_name(
    server: double.Hub, hub: Hub, name: str, says: str
) -> None:
    server.files = FILES | {name: b"x"}
    with pytest.raises(HubAdapterRefused, match=says) as refused:
        hub.find(HubReference("owner/name"))
    assert refused.value.param == name
    assert repr(name) in refused.value.message
    assert not [path for path in server.paths if "resolve" in path]


@pytest.mark.parametrize("name", list(MAX_BYTES))
def test_a_repository_without_an_adapters_files_is_refused(server: double.Hub, hub: Hub, name: str) -> None:
    server.files = {other: content for other, content in FILES.items() if other != name}
    with pytest.raises(HubAdapterRefused, match=f"has no {name}"):
        hub.find(HubReference("owner/name"))


def test_a_configuration_of_more_than_a_mebibyte_is_refused(server: double.Hub, hub: Hub) -> None:
    server.files = FILES | {CONFIG_FILE: bytes((1 << 20) + 1)}
    with pytest.raises(HubAdapterRefused, match="at most 1048576"):
        hub.find(HubReference("owner/name"))


def test_unknown_repositories_and_revisions_are_named(server: double.Hub, hub: Hub) -> None:
    with pytest.raises(NotFound, match="has no owner/other"):
        hub.find(HubReference("owner/other"))
    with pytest.raises(NotFound, match="owner/name has no revision 'v9'"):
        hub.find(HubReference("owner/name", "v9"))
    server.answers[INFO] = 403, b"{}"
    with pytest.raises(NotFound, match=r"gated.*HF_TOKEN"):
        hub.find(HubReference("owner/name"))


def test_a_private_repository_needs_a_token(server: double.Hub, hub: Hub) -> None:
    server.token = "hf_secret"
    with pytest.raises(NotFound, match="private and needs HF_TOKEN"):
        hub.find(HubReference("owner/name"))
    with Hub(server.url, "hf_secret\n") as known:
        assert known.find(HubReference("owner/name")).commit == COMMIT


@pytest.mark.parametrize("token", ["hf_se cret", "hf_se\ncret", "hf_s\u00e9cret"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(server: double.Hub, token: str) -> None:
    with pytest.raises(InvalidInput, match="hub's token") as refused:
        Hub(server.url, token)
    assert "hf_" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"sha":"\xff"}',
        json.dumps({"sha": "main", "siblings": []}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "a"}]}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": 7, "size": 1, "blobId": COMMIT}]}).encode(),
    ],
)
def test_a_server_that_is_no_hub_is_refused(server: double.Hub, hub: Hub, body: bytes) -> None:
    server.answers[INFO] = 200, body
    with pytest.raises(NotAHub, match="is not a hub"):
        hub.find(HubReference("owner/name"))


def test_a_hub_that_sends_another_commit_than_the_named_one_is_refused(server: double.Hub, hub: Hub) -> None:
    server.revisions.add("2" * 40)
    with pytest.raises(NotAHub, match=f"commit {COMMIT}, not {'2' * 40}"):
        hub.find(HubReference("owner/name", "2" * 40))


def test_a_hub_that_fails_or_is_away_can_be_tried_again(server: double.Hub, hub: Hub) -> None:
    server.answers[INFO] = 502, b"bad gateway"
    with pytest.raises(Unavailable, match="answers 502"):
        hub.find(HubReference("owner/name"))
    with Hub("http://127.0.0.1:9") as away, pytest.raises(Unavailable, match="not reachable"):
        away.find(HubReference("owner/name"))


@pytest.mark.parametrize("endpoint", ["", "huggingface.co", "ftp://hub", "https://", "https://hub\n"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match="not the URL of a hub"):
        Hub(endpoint)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (WEIGHTS_FILE, b"weightz", HubFileChanged),
        (CONFIG_FILE, CONFIG.swapcase(), HubFileChanged),
        (WEIGHTS_FILE, b"weights and more", NotAHub),
    ],
)
def test_what_is_downloaded_is_compared_with_the_commit(
    server: double.Hub, hub: Hub, tmp_path: Path, name: str, content: bytes, error: type[DomainError]
) -> None:
    found = hub.find(HubReference("owner/name"))
    server.answers[f"/owner/name/resolve/{COMMIT}/{name}"] = 200, content
    with pytest.raises(error, match=name):
        hub.download(found, tmp_path, ["other", "tiny"])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (CONFIG, "for the base model 'owner/Tiny'; this market serves 'other/huge'"),
        (b"no JSON", "is no JSON object"),
        (b"[1]", "is no JSON object"),
    ],
)
def test_the_weights_of_another_base_model_are_not_downloaded(
    server: double.Hub, hub: Hub, tmp_path: Path, config: bytes, says: str
) -> None:
    server.files = FILES | {CONFIG_FILE: config}
    with pytest.raises(HubAdapterRefused, match=says):
        hub.download(hub.find(HubReference("owner/name")), tmp_path, ["other/huge"])
    assert f"/owner/name/resolve/{COMMIT}/{WEIGHTS_FILE}" not in server.paths


@pytest.mark.parametrize(
    ("of_hub", "stated", "agreed"),
    [
        ("apache-2.0", "", "apache-2.0"),
        ("apache-2.0", "Apache-2.0", "Apache-2.0"),
        ("gpl-3.0", "GPL-3.0-or-later", "GPL-3.0-or-later"),
        (None, "MIT", "MIT"),
        ("other", "MIT", "MIT"),
        ("cc-by-nc-4.0", "MIT", None),
        ("llama3.1", "Apache-2.0", None),
        (None, "", None),
        ("other", "", None),
        (["mit", "apache-2.0"], "MIT", "MIT"),
        (["mit"], "", None),
    ],
)
def test_the_stated_licence_must_be_the_repositorys(
    server: double.Hub, hub: Hub, of_hub: str | list[str] | None, stated: str, agreed: str | None
) -> None:
    server.card = {"license": of_hub}
    found = hub.find(HubReference("owner/name"))
    if agreed is not None:
        assert found.agreed_licence(stated) == agreed
        return
    with pytest.raises(InvalidInput) as refused:
        found.agreed_licence(stated)
    assert refused.value.param == "licence"


def test_a_base_is_found_by_its_own_name() -> None:
    bases = ["tiny", "Large-2B"]
    assert matching_base("someone/large-2b", bases) == "Large-2B"
    assert matching_base("/models/tiny/", bases) == "tiny"
    assert matching_base("huge", bases) is None
    assert stated_base(b'{"base_model_name_or_path": null}') == ""
    with pytest.raises(ValueError, match="has no attribute"):
        stated_base(b"[]")
