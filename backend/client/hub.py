"""Adapters in a repository of a Hugging Face hub, by its plain HTTP API.

Source: https://huggingface.co/docs/hub/api. A commit is pinned, and what is downloaded is compared with the
digests that the hub states for it. See docs/adr/0035.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import quote

import httpx
import msgspec

from backend.client.api import LOOPBACK
from backend.domain.adapter_files import CONFIG_FILE, MAX_BYTES, MAX_TAGS, TAG_PATTERN, code_in
from backend.domain.errors import Conflict, InvalidInput, NotFound, Unavailable
from backend.domain.streams import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

TIMEOUT_SECONDS = 60
MAX_INFO_BYTES = 8 << 20
_REFERENCE = re.compile(r"hf:([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,100}))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_TOKEN = re.compile(r"[\x21-\x7e]*")
_UNSTATED = {"other", "unknown"}


class NotAHub(InvalidInput):
    """The server at the hub's URL answers with something else than a hub."""


class HubAdapterRefused(InvalidInput):
    """The repository has no adapter that can be published; `param` is the file at fault, if any."""


class HubFileChanged(Conflict):
    """What was downloaded is not the file that the hub's commit names."""


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository `owner/name`, and a branch, tag or commit."""

    repository: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `hf:owner/name@revision`. Errors: `InvalidInput`."""
        match = _REFERENCE.fullmatch(text)
        if match is None or ".." in text:
            raise InvalidInput(
                f"{text!r} is not an adapter on a hub: `hf:owner/name@revision` is expected, with a branch, "
                "a tag or a commit",
                param="source",
            )
        return cls(match[1], match[2] or "main")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a whole commit, which cannot change."""
        return _COMMIT.fullmatch(self.revision) is not None


class _Lfs(msgspec.Struct):
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class HubFile(msgspec.Struct, rename={"name": "rfilename", "blob_id": "blobId"}):
    """A file of a commit: `blob_id` is git's SHA-1, which for a large file is that of its pointer."""

    name: Annotated[str, msgspec.Meta(max_length=1000)]
    size: Annotated[int, msgspec.Meta(ge=0)]
    blob_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]
    lfs: _Lfs | None = None


class _Card(msgspec.Struct):
    """What the repository's owner wrote, of any type."""

    license: Any = None
    tags: Any = None


class _Info(msgspec.Struct, rename={"card": "cardData"}):
    sha: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]
    siblings: list[HubFile]
    card: _Card | None = None


_INFO = msgspec.json.Decoder(_Info)


@dataclass(frozen=True, slots=True)
class HubAdapter:
    """An adapter at a commit. `licence`: the hub's identifier, None if the card states none. `tags`: those of
    the card that markets have too.
    """

    repository: str
    commit: str
    licence: str | None
    tags: tuple[str, ...]
    files: Mapping[str, HubFile]

    def __str__(self) -> str:
        return f"hf:{self.repository}@{self.commit}"

    @property
    def num_bytes(self) -> int:
        return sum(self.files[name].size for name in MAX_BYTES)

    def agreed_licence(self, stated: str) -> str:
        """The licence to publish under: the stated one, or the repository's if none is stated.

        Errors: `InvalidInput` if there is none, or the repository states another one.
        """
        if self.licence is None and not stated:
            raise InvalidInput(f"{self} states no licence: state it with --licence", param="licence")
        # The hub's identifiers are SPDX's in lower case, without `-only` and `-or-later`.
        ours = re.sub("-(only|or-later)$", "", stated.casefold())
        if stated and self.licence is not None and self.licence not in {stated.casefold(), ours}:
            raise InvalidInput(
                f"{self} is under the licence {self.licence!r}, not {stated}: state that one, or change the "
                "repository's card if it is yours",
                param="licence",
            )
        return stated or str(self.licence)


class Hub:
    """`token`: of the hub, for repositories that are private or gated; it is sent to the hub alone."""

    def __init__(self, endpoint: str, token: str = "") -> None:
        """Errors: `InvalidInput` if the endpoint is no URL, or the token no word."""
        try:
            url = httpx.URL(endpoint)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in {"http", "https"} or not url.host:
            raise InvalidInput(
                f"{endpoint!r} is not the URL of a hub, such as https://huggingface.co", param="hub"
            )
        token = token.strip()
        if not _TOKEN.fullmatch(token):  # the error of the HTTP library would quote it
            raise InvalidInput("the hub's token has spaces, or characters that are not ASCII", param="token")
        self._endpoint = endpoint.rstrip("/")
        self._http = httpx.Client(
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT_SECONDS,
            follow_redirects=True,  # httpx sends the token to no other host
            trust_env=url.host not in LOOPBACK,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def find(self, reference: HubReference) -> HubAdapter:
        """Resolve the revision to a commit, and check its files by name and size.

        Errors: `NotFound`, `NotAHub`, `HubAdapterRefused`, `Unavailable`.
        """
        path = f"/api/models/{reference.repository}/revision/{quote(reference.revision, safe='')}"
        raw = b"".join(self._read(f"{path}?blobs=true", MAX_INFO_BYTES, reference.repository, reference))
        try:
            info = _INFO.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotAHub(f"{self._endpoint} is not a hub: it describes no repository ({error})") from error
        if reference.is_pinned and info.sha != reference.revision:
            raise NotAHub(f"{self._endpoint} answers with commit {info.sha}, not {reference.revision}")
        licence = None if info.card is None else info.card.license
        is_stated = isinstance(licence, str) and licence.casefold() not in _UNSTATED
        found = HubAdapter(
            reference.repository,
            info.sha,
            str(licence).casefold() if is_stated else None,
            _tags(info.card),
            {file.name: file for file in info.siblings},
        )
        _check_files(found)
        return found

    def download(self, adapter: HubAdapter, folder: Path, bases: Sequence[str]) -> None:
        """Write the adapter's two files to a folder; the weights only if the configuration names one of these
        base models.

        Errors: `HubAdapterRefused`, `HubFileChanged`, `NotFound`, `Unavailable`.
        """
        for name in MAX_BYTES:
            self._download(adapter, name, folder / name)
            if name == CONFIG_FILE:
                _check_base(adapter, (folder / name).read_bytes(), bases)

    def _download(self, adapter: HubAdapter, name: str, path: Path) -> None:
        file, url = adapter.files[name], f"/{adapter.repository}/resolve/{adapter.commit}/{name}"
        # git names a blob by its header and content; large files are named by their content.
        blob = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        digest, stated = (blob, file.blob_id) if file.lfs is None else (hashlib.sha256(), file.lfs.sha256)
        with path.open("xb") as target:
            for chunk in self._read(url, file.size, f"{name} of {adapter}"):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != stated:
            raise HubFileChanged(
                f"{name} of {adapter} does not have the digest that the hub states: try again",
                param=name,
                details={"stated": stated, "downloaded": digest.hexdigest()},
            )

    def _read(
        self, path: str, max_bytes: int, what: str, reference: HubReference | None = None
    ) -> Iterator[bytes]:
        too_large = NotAHub(f"{self._endpoint} sends more than {max_bytes} bytes for {what}")
        try:
            with self._http.stream("GET", self._endpoint + path) as response:
                if not response.is_success:
                    raise self._refusal(response, what, reference)
                yield from at_most(max_bytes, response.iter_bytes(), too_large)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"the hub at {self._endpoint} is not reachable ({error}); try again") from error

    def _refusal(
        self, response: httpx.Response, what: str, reference: HubReference | None
    ) -> NotFound | Unavailable:
        kind, status = response.headers.get("x-error-code", ""), response.status_code
        if kind == "RevisionNotFound" and reference is not None:
            return NotFound(f"{what} has no revision {reference.revision!r}", param="source")
        if kind == "GatedRepo" or status == HTTPStatus.FORBIDDEN:
            text = f"{what} is gated at {self._endpoint}: accept its terms there, and set HF_TOKEN"
            return NotFound(text, param="source")
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED}:
            text = f"{self._endpoint} has no {what}, or it is private and needs HF_TOKEN"
            return NotFound(text, param="source")
        return Unavailable(f"{self._endpoint} answers {status} for {what}; try again")


def _tags(card: _Card | None) -> tuple[str, ...]:
    tags = card.tags if card is not None and isinstance(card.tags, list) else []
    known = (tag for each in tags if re.fullmatch(TAG_PATTERN, tag := str(each).lower()))
    return tuple(dict.fromkeys(known))[:MAX_TAGS]


def _check_files(adapter: HubAdapter) -> None:
    for name in sorted(adapter.files):
        if reason := code_in(name):
            raise HubAdapterRefused(f"{adapter} has the file {name!r}: {reason}", param=name)
    for name, most in MAX_BYTES.items():
        file = adapter.files.get(name)
        if file is None:
            raise HubAdapterRefused(f"{adapter} has no {name}: it is not an adapter of PEFT", param=name)
        if file.size > most:
            message = f"{name} of {adapter} has {file.size} bytes, at most {most} are accepted"
            raise HubAdapterRefused(message, param=name)


def _check_base(adapter: HubAdapter, config: bytes, bases: Sequence[str]) -> None:
    try:
        stated = stated_base(config)
    except ValueError as error:
        raise HubAdapterRefused(f"{CONFIG_FILE} of {adapter} is no JSON object", param=CONFIG_FILE) from error
    if stated and matching_base(stated, bases) is None:
        served = " or ".join(map(repr, bases))
        raise HubAdapterRefused(
            f"{adapter} is for the base model {stated[:100]!r}; this market serves {served}",
            param=CONFIG_FILE,
        )


def stated_base(config: bytes) -> str:
    """The base model that an adapter's configuration names, empty if none. Errors: `ValueError`."""
    try:
        stated = json.loads(config).get("base_model_name_or_path")
    except (AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return stated if isinstance(stated, str) else ""


def matching_base(stated: str, bases: Sequence[str]) -> str | None:
    """The base model of this name. Names are compared without their owners: mirrors have other ones. The
    market compares shapes and digests.
    """
    return next((base for base in bases if _own_name(base) == _own_name(stated)), None)


def _own_name(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].casefold()
