"""The engine process: `python -m inference.server --socket PATH [--model MODEL]`.

Clients connect to a unix domain socket and speak `inference.protocol`. The socket exists only once the model
is loaded, so whoever can connect is served.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import fcntl
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inference.config import EngineConfig
from inference.errors import InferenceError, OverloadedError, SocketTakenError, UnsupportedModelError
from inference.frames import encode_frame
from inference.model.sources import resolve_model
from inference.protocol import Error
from inference.session import Session
from inference.worker import EngineWorker
from telemetry import logs, traces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inference.engine import Output

logger = logging.getLogger(__name__)

MAX_SOCKET_PATH_BYTES = 107
MAX_CONNECTIONS = 64
"""A client holds one for all its requests; each may take two frames of memory in either direction."""


class EngineServer:
    """Serves one engine to any number of connections."""

    def __init__(self, config: EngineConfig) -> None:
        self._worker = EngineWorker(config)
        try:
            self._worker.engine.vocabulary.warm_up()
        except UnsupportedModelError as error:  # everything else is still served
            logger.warning("%s", error)
        self._tokenizers = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._compilers = ThreadPoolExecutor(1, thread_name_prefix="grammar-compiler")
        self._sessions: dict[int, Session] = {}
        self._num_sessions = 0
        self._crash: BaseException | None = None
        self._stopped = asyncio.Event()

    async def serve(self, socket_path: Path) -> None:
        """Serve until `stop` or a crash of the engine, which is raised. The path must be ours, see `claimed`:
        what a killed engine left there is replaced.
        """
        loop = asyncio.get_running_loop()
        self._worker.start(
            deliver=lambda outputs: _call_soon(loop, self._deliver, outputs),
            on_crash=lambda error: _call_soon(loop, self._crashed, error),
        )
        old_mask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._connected, socket_path)
        finally:
            os.umask(old_mask)
        logger.info("engine ready on %s", socket_path)
        async with server:
            await self._stopped.wait()
            for session in self._sessions.values():
                session.close()
        await asyncio.to_thread(socket_path.unlink, missing_ok=True)
        if self._crash is not None:
            raise RuntimeError("the engine failed") from self._crash
        self._worker.stop()

    def stop(self) -> None:
        """Close all connections; their clients see a retryable error."""
        self._stopped.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._sessions) >= MAX_CONNECTIONS:
            reason = f"{MAX_CONNECTIONS} clients are connected already"
            writer.write(encode_frame(Error("", OverloadedError.code, reason, retryable=True)))
            writer.close()
            return
        number = self._num_sessions
        self._num_sessions += 1
        session = Session(number, self._worker, self._tokenizers, self._compilers, reader, writer)
        self._sessions[number] = session
        try:
            await session.run()
        finally:
            del self._sessions[number]

    def _deliver(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            session = self._sessions.get(int(output.request_id.partition(":")[0]))
            if session is not None:
                session.deliver(output)

    def _crashed(self, error: BaseException) -> None:
        self._crash = error
        self._stopped.set()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logs.setup(options.log_format)
    try:
        traces.setup("engine")
    except traces.TracesMisconfigured as error:
        logger.error("the engine cannot start: %s", error)  # noqa: TRY400  # it says all
        return 1
    try:
        # Before the model is loaded: of two that start at once, one ends without taking its memory.
        with claimed(options.socket):
            asyncio.run(_serve(options))
    except InferenceError as error:
        logger.error("the engine cannot start: %s", error)  # noqa: TRY400  # it says all; a traceback hides it
        return 1
    except Exception:
        logger.exception("the engine process ends")
        # Loader threads may still hold a folder open; nothing they do is worth waiting for.
        logging.shutdown()
        os._exit(1)
    return 0


@contextmanager
def claimed(socket_path: Path) -> Iterator[None]:
    """Be the only engine on a path: a lock beside it, which the kernel holds for as long as we live, however
    we end. Raises `SocketTakenError`, `ValueError`.
    """
    if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"socket path {socket_path} is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    with socket_path.with_name(f"{socket_path.name}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SocketTakenError(socket_path, lock.read()) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


async def _serve(options: argparse.Namespace) -> None:
    server = EngineServer(_config(options, resolve_model(options.model, options.model_cache)))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    if options.exit_with_stdin:
        threading.Thread(target=_watch_stdin, args=(loop, server), daemon=True).start()
    await server.serve(options.socket)


def _config(options: argparse.Namespace, model_path: Path) -> EngineConfig:
    """Options carry the names of the configuration's fields; what was not given keeps its default."""
    names = {field.name for field in dataclasses.fields(EngineConfig)}
    given = {name: value for name, value in vars(options).items() if name in names}
    return EngineConfig(model_path=model_path, **given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference.server",
        description="Serve one base model and its adapters on a unix socket.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--socket", type=Path, required=True, help="path of the unix domain socket to create")
    add("--model", default="", help="folder, GGUF file or hub id (owner/name[@revision]); default: bundled")
    add(
        "--model-cache",
        type=Path,
        default=Path(".loraledger/cache/models"),
        help="where a converted one is kept",
    )
    add("--dtype", choices=("float32", "bfloat16", "float16"))
    add(
        "--quantization",
        choices=("none", "int8", "int4"),
        help="of the linear layers' weights; default: none",
    )
    add("--device", help="torch device; default: cpu")
    add("--num-threads", type=int, help="torch threads")
    add("--kernels", choices=("auto", "native", "portable"), help="auto: compiled for this CPU if possible")
    add(
        "--batch-invariant",
        action="store_true",
        help="the same bits for a request in any company, in bf16 too; slower",
    )
    add("--tensor-parallel", type=int, help="processes among which every layer is divided; default: 1")
    add("--max-context", type=int, help="tokens of prompt and answer; default: the model's")
    add("--max-running", type=int, help="requests in one batch")
    add("--max-waiting", type=int, help="requests in line before more are refused as overloaded")
    add("--max-waiting-tokens", type=int, help="likewise, tokens of their prompts")
    add("--max-step-tokens", type=int, help="limit of a batch, and so of a prefill chunk")
    add("--kv-budget-bytes", type=int, help="memory for keys and values")
    add("--prefix-sharing", choices=("off", "payer", "all"), help="who may begin behind whose prefix")
    add("--adapter-budget-bytes", type=int, help="host cache of adapters")
    add("--num-adapter-slots", type=int, help="adapters active at once")
    add("--num-adapter-rows", type=int, help="sum of the ranks of active adapters")
    add("--max-rank", type=int, help="largest rank accepted")
    add("--log-format", choices=("text", "json"), default="text", help="of what is logged; default: text")
    add("--exit-with-stdin", action="store_true", default=False, help="end when standard input closes")
    return parser


def _watch_stdin(loop: asyncio.AbstractEventLoop, server: EngineServer) -> None:
    while os.read(0, 4096):  # unbuffered: Python's own stream would hold a lock at exit
        pass
    _call_soon(loop, server.stop)


def _call_soon(loop: asyncio.AbstractEventLoop, function: object, *arguments: object) -> None:
    """From another thread; the loop may have closed meanwhile, and then nobody is interested."""
    try:
        loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
    except RuntimeError:
        logger.debug("event loop closed before %r", function)


if __name__ == "__main__":
    sys.exit(main())
