"""Replicas of a vLLM server under Ray Serve: `python vllm_replicas.py --replicas 2 vllm.sh` (docs/ray.md).

Each replica is a Serve application with a path of its own, so that the market's router chooses the replica.
Ray starts a server where it finds room, and starts it again when it or its machine fails. Runs in Ray's
environment, which needs nothing of this project and no vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import ray
from ray import serve
from starlette.responses import PlainTextResponse, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

START_SECONDS = 1800.0
"""A server that does not answer for so long after its start is started again."""
HEALTH_SECONDS = 10.0
MAX_REQUESTS = 4096
"""Of a replica at once; vLLM itself queues those that do not fit its batch."""
RUNNING = frozenset({"DEPLOYING", "RUNNING", "UNHEALTHY"})
"""States of applications that Ray keeps running."""
# Ends a server and its children however this process ends, which closes the pipe. In the background of a
# shell that ends at once, because Ray kills the children of a process that ends, and no grandchildren.
_REAPER = 'exec 3<&0; (read -r _ <&3; kill -s TERM -- "-$0" && sleep 10 && kill -s KILL -- "-$0") &'


@serve.deployment(
    max_ongoing_requests=MAX_REQUESTS,
    health_check_period_s=2,
    health_check_timeout_s=3 * HEALTH_SECONDS,
    logging_config={"enable_access_log": False},
)
class VllmServer:
    """Runs a server on loopback and forwards requests to it; 502 while it does not answer."""

    def __init__(self, script: str) -> None:
        """`script` for bash: becomes the server, at `PORT` of its environment."""
        port = _free_port()
        command = ["bash", "-euo", "pipefail", "-c", script]
        environment = os.environ | {"PORT": str(port)}
        self._server = subprocess.Popen(command, env=environment, start_new_session=True)
        reaper = ["sh", "-c", _REAPER, str(self._server.pid)]
        self._reaper = subprocess.Popen(reaper, stdin=subprocess.PIPE, start_new_session=True)
        self._reaper.wait()
        self._url = f"http://127.0.0.1:{port}"
        self._started_at = asyncio.get_running_loop().time()
        self._has_answered = False
        timeout = aiohttp.ClientTimeout(total=None, connect=HEALTH_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=connector)

    async def check_health(self) -> None:
        """Ray replaces this replica when this raises."""
        status = self._server.poll()
        if status is not None:
            raise RuntimeError(f"the server ended with status {status}")
        try:
            timeout = aiohttp.ClientTimeout(total=HEALTH_SECONDS)
            async with self._http.get(self._url + "/health", timeout=timeout) as answer:
                answer.raise_for_status()
        except (aiohttp.ClientError, TimeoutError) as error:
            is_starting = asyncio.get_running_loop().time() - self._started_at < START_SECONDS
            if self._has_answered or not is_starting:
                raise RuntimeError(f"the server does not answer: {error!r}") from error
        else:
            self._has_answered = True

    async def __call__(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        query = f"?{request.url.query}" if request.url.query else ""
        kind = request.headers.get("content-type", "application/json")
        try:
            answer = await self._http.request(
                request.method,
                self._url + path + query,
                data=await request.body(),
                headers={"content-type": kind},
            )
        except (aiohttp.ClientConnectionError, TimeoutError):
            return PlainTextResponse("vLLM does not answer", 502)
        headers = {"content-type": answer.headers.get("content-type", kind)}
        return StreamingResponse(_pieces(answer), answer.status, headers)


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it arrives. Closing early closes the connection, by which vLLM aborts the request."""
    try:
        async for piece in answer.content.iter_any():
            yield piece
    finally:
        answer.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _run(server: serve.Application, name: str, url: str) -> None:
    """Deploy a replica, in place of the one of this name if there is one."""
    serve.run(server, name=name, route_prefix=f"/{name}")
    print(f"{url}/{name}", flush=True)


def _wait(url: str) -> None:
    """Return once the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=HEALTH_SECONDS).close()  # noqa: S310
            return
        time.sleep(1)
    raise SystemExit(f"{url} does not answer after {START_SECONDS:.0f} s: read Ray's logs")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run replicas of a vLLM server on a Ray cluster.")
    parser.add_argument("script", type=Path, nargs="?", help="commands for bash that become the server")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--replicas", type=int, default=1, help="start those of so many that do not run (1)")
    what.add_argument("--replace", metavar="NAME", help="start this replica again, and wait for its server")
    what.add_argument("--remove", metavar="NAME", help="end this replica")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each server (default: 0)")
    parser.add_argument("--cpus", type=float, default=1, help="processors of each server (default: 1)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: loopback)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at (default: 8000)")
    options = parser.parse_args()
    if options.script is None and options.remove is None:
        parser.error("the script is missing, which becomes the server")
    return options


def main() -> None:
    options = _options()
    url = f"http://{options.host}:{options.port}"
    ray.init("auto")
    serve.start(http_options={"host": options.host, "port": options.port})
    found = {name: one.status for name, one in serve.status().applications.items()}
    chosen = options.replace or options.remove
    if chosen is not None and chosen not in found:
        raise SystemExit(f"no replica {chosen!r}; there are: {', '.join(found) or 'none'}")
    if options.remove is not None:
        serve.delete(chosen)
        return
    resources = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    server = VllmServer.options(ray_actor_options=resources).bind(options.script.read_text())
    if options.replace is not None:
        _run(server, chosen, url)
        _wait(f"{url}/{chosen}")
        return
    for number in range(1, options.replicas + 1):
        name = f"replica-{number}"
        if found.get(name) in RUNNING:  # Ray would end it and start another, also with the same script
            print(f"{url}/{name} runs; --replace {name} starts it again", flush=True)
        else:
            _run(server, name, url)


if __name__ == "__main__":
    main()
