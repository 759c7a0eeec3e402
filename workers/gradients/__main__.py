"""Command line of the process: `python -m workers.gradients --socket PATH [--model MODEL]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import InferenceError
from inference.model.sources import resolve_model
from inference.server.process import locked_socket, stop_on_request
from telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("workers.gradients")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logs.setup(options.log_format)
    try:
        with locked_socket(options.socket):
            asyncio.run(_serve(options))
    except InferenceError as error:
        log.error("the process cannot start: %s", error)  # noqa: TRY400  # the message is complete
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    import torch

    from workers.gradients.scorer import Scorer
    from workers.gradients.server import GradientServer

    torch.set_num_threads(options.num_threads)
    server = GradientServer(Scorer(resolve_model(options.model, options.model_cache)))
    stop_on_request(server.stop, server.stop if options.exit_with_stdin else None)
    await server.serve(options.socket)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.gradients", description="Attribute answers by gradients on a unix socket."
    )
    add = parser.add_argument
    add("--socket", type=Path, required=True, help="path of the unix domain socket to create")
    add("--model", default="", help="as of `python -m inference.server`")
    add("--model-cache", type=Path, default=Path(".loraledger/cache/models"), help="converted models")
    add("--num-threads", type=int, default=2, help="torch threads")
    add("--log-format", choices=("text", "json"), default="text", help="format of log lines; default: text")
    add("--exit-with-stdin", action="store_true", help="exit when standard input closes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
