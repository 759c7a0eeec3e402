"""A Hugging Face hub on loopback, with the routes that `snapshot_download` and `backend.client.hub` use."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

from tests.support.answering import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Hub(ThreadingHTTPServer):
    """Serves one repository `owner/name` at one commit; `paths` records the requests.

    `answers`: (status, body) by path, in place of the hub's own. With a `token` the repository is private.
    """

    def __init__(self, files: Mapping[str, bytes], commit: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.commit = commit
        self.revisions = {"main", "v2"}
        self.card: dict[str, object] = {}
        self.token: str | None = None
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub(files: Mapping[str, bytes], commit: str) -> Iterator[Hub]:
    hub = Hub(files, commit)
    with running(hub):
        yield hub


class _Handler(QuietHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def _answer(self, *, has_body: bool) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.paths.append(path)
        status, content, code = self._answer_to(path)
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')  # noqa: S324  # as the hub's
        self.send_header("X-Repo-Commit", hub.commit)
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def _answer_to(self, path: str) -> tuple[int, bytes, str]:
        """Status, body and error code."""
        hub = self.server
        if path in hub.answers:
            return *hub.answers[path], "GatedRepo" if hub.answers[path][0] == 403 else ""
        if hub.token is not None and self.headers["authorization"] != f"Bearer {hub.token}":
            return 401, b"{}", "RepoNotFound"
        content = self._content(path)
        if content is not None:
            return 200, content, ""
        is_revision = path.startswith("/api/models/owner/name/revision/")
        return 404, b"{}", "RevisionNotFound" if is_revision else "RepoNotFound"

    def _content(self, path: str) -> bytes | None:
        hub = self.server
        if path == f"/api/models/owner/name/tree/{hub.commit}":
            return json.dumps([_entry(name, content) for name, content in hub.files.items()]).encode()
        revision = path.removeprefix("/api/models/owner/name/revision/")
        if revision in {hub.commit, *hub.revisions}:
            siblings = [_sibling(name, content) for name, content in hub.files.items()]
            card = {"cardData": hub.card} if hub.card else {}
            return json.dumps({"id": "owner/name", "sha": hub.commit, "siblings": siblings, **card}).encode()
        return hub.files.get(path.removeprefix(f"/owner/name/resolve/{hub.commit}/"))


def _sibling(name: str, content: bytes) -> dict[str, object]:
    """Weights are large files, which are named by their SHA-256; others are git's blobs."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content)  # noqa: S324  # as git names blobs
    lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    large = {"lfs": lfs} if name.endswith(".safetensors") else {}
    return {"rfilename": name, "size": len(content), "blobId": blob.hexdigest(), **large}


def _entry(name: str, content: bytes) -> dict[str, str | int]:
    digest = hashlib.sha1(content).hexdigest()  # noqa: S324  # as git names blobs
    return {"type": "file", "path": name, "size": len(content), "oid": digest}
