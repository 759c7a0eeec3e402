"""Command line of the engine process: `python -m inference.server --socket PATH [--model MODEL]`.

Clients connect to a unix domain socket and speak `inference.protocol`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inference.config import EngineConfig
from inference.errors import InferenceError
from inference.model.sources import resolve_model
from inference.server import watchdog
from inference.server.process import locked_socket, stop_on_request
from inference.server.server import EngineServer
from telemetry import logs, traces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger("inference.server")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logs.setup(options.log_format)
    try:
        traces.setup("engine")
    except traces.TracesMisconfigured as error:
        logger.error("the engine cannot start: %s", error)  # noqa: TRY400  # the message is complete
        return 1
    try:
        # Lock first: a second engine on this path then exits before it loads the model.
        with locked_socket(options.socket):
            asyncio.run(_serve(options))
    except InferenceError as error:
        logger.error("the engine cannot start: %s", error)  # noqa: TRY400  # the message is complete
        return 1
    except Exception:
        logger.exception("the engine process failed")
        # Do not wait for loader threads, which may still be reading a folder.
        logging.shutdown()
        os._exit(1)
    return 0


async def _serve(options: argparse.Namespace) -> None:
    server = EngineServer(_config(options, resolve_model(options.model, options.model_cache)))
    stop_on_request(server.drain, server.stop if options.exit_with_stdin else None)
    watchdog.start(options.socket, options.stall_seconds)
    await server.serve(options.socket)


def _config(options: argparse.Namespace, model_path: Path) -> EngineConfig:
    """Options are named like the configuration's fields; fields without an option keep their defaults."""
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
        help="folder for converted models",
    )
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="type of weights and activations")
    add(
        "--quantization",
        choices=("none", "int8"),
        help="weight format of linear layers, head and adapters; int8 changes answers; default: none",
    )
    add("--device", help="torch device; default: cpu")
    add("--num-threads", type=int, help="torch threads")
    add("--kernels", choices=("auto", "native", "portable"), help="auto: compiled for this CPU if possible")
    add(
        "--batch-invariant",
        action="store_true",
        help="compute the same bits for a request in any batch, in bf16 too; slower",
    )
    _add_limits(add)
    add(
        "--stall-seconds",
        type=float,
        default=60.0,
        help="time without a response after which the process ends, to be started again; default: 60",
    )
    add("--log-format", choices=("text", "json"), default="text", help="format of log lines; default: text")
    add("--exit-with-stdin", action="store_true", default=False, help="exit when standard input closes")
    return parser


def _add_limits(add: Callable[..., object]) -> None:
    """Options of the scheduler, the KV cache and the adapters."""
    add("--max-context", type=int, help="maximum tokens of prompt and answer; default: the model's")
    add("--max-running", type=int, help="maximum requests in one batch")
    add("--max-waiting", type=int, help="maximum waiting requests; further ones are refused")
    add("--max-waiting-tokens", type=int, help="maximum prompt tokens of waiting requests")
    add("--max-step-tokens", type=int, help="maximum tokens of a batch, and so of a prefill chunk")
    add(
        "--prompt-lookup",
        action=argparse.BooleanOptionalAction,
        help="compute tokens that an earlier passage predicts along with the next one; default: on",
    )
    add("--kv-budget-bytes", type=int, help="bytes for the KV cache")
    add(
        "--prefix-sharing",
        choices=("off", "payer", "all"),
        help="share cached prefixes among a payer's requests, or among all (reveals prompts by timing)",
    )
    add("--adapter-budget-bytes", type=int, help="bytes for the host cache of adapters")
    add("--num-adapter-slots", type=int, help="maximum active adapters")
    add("--num-adapter-rows", type=int, help="maximum sum of the ranks of active adapters")
    add("--max-rank", type=int, help="maximum rank of an adapter")


if __name__ == "__main__":
    sys.exit(main())
