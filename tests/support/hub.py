"""A Hugging Face hub on loopback, with the routes that `snapshot_download` uses."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Hub(ThreadingHTTPServer):
    """Serves one repository `owner/name` at one commit; `paths` records the requests."""

    def __init__(self, files: Mapping[str, bytes], commit: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.commit = commit
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub(files: Mapping[str, bytes], commit: str) -> Iterator[Hub]:
    with Hub(files, commit) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, has_body: bool) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.paths.append(path)
        content = self._content(path)
        self.send_response(404 if content is None else 200)
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')  # noqa: S324  # as the hub's
        self.send_header("X-Repo-Commit", hub.commit)
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def _content(self, path: str) -> bytes | None:
        hub = self.server
        if path == f"/api/models/owner/name/tree/{hub.commit}":
            return json.dumps([_entry(name, content) for name, content in hub.files.items()]).encode()
        if path.startswith("/api/models/owner/name/revision/"):
            siblings = [{"rfilename": name} for name in hub.files]
            return json.dumps({"id": "owner/name", "sha": hub.commit, "siblings": siblings}).encode()
        return hub.files.get(path.removeprefix(f"/owner/name/resolve/{hub.commit}/"))


def _entry(name: str, content: bytes) -> dict[str, str | int]:
    digest = hashlib.sha1(content).hexdigest()  # noqa: S324  # as git names blobs
    return {"type": "file", "path": name, "size": len(content), "oid": digest}
