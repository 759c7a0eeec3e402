"""A fake chain node with its blocks in memory: `python -m benchmarks.api.node FILE`.

FILE has the logs of one block per line, as JSON without the enclosing brackets. The node prints its port.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from backend.domain.hashing import keccak

START = 1_790_000_000


def block_hash(number: int) -> str:
    return "0x" + keccak(b"block" + number.to_bytes(8, "big")).hex()


def block(number: int) -> dict[str, Any]:
    parent = block_hash(number - 1)
    numbers = {"number": hex(number), "timestamp": hex(START + number)}
    return numbers | {"hash": block_hash(number), "parentHash": parent}


class Blocks:
    """Answers RPC calls; block n has the logs of line n - 1."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self._numbers = {block_hash(number): number for number in range(len(lines) + 1)}

    def answer(self, call: dict[str, Any]) -> bytes:
        method, params = call["method"], call["params"]
        if method == "eth_getLogs":
            first, last = self._range(params[0])
            found = b",".join(filter(None, self._lines[first - 1 : last]))
            return b'{"jsonrpc":"2.0","id":%d,"result":[%s]}' % (call["id"], found)
        if method != "eth_getBlockByNumber":
            raise ValueError(f"unsupported method {method}")
        number = len(self._lines) if params[0] == "latest" else int(params[0], 16)
        return json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": block(number)}).encode()

    def _range(self, query: dict[str, Any]) -> tuple[int, int]:
        """First and last block of a query of logs."""
        if "blockHash" in query:
            return (self._numbers[query["blockHash"]],) * 2
        return int(query["fromBlock"], 16), int(query["toBlock"], 16)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two packets
    blocks: Blocks

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = self.blocks.answer
        body = b"[%s]" % b",".join(map(answer, sent)) if isinstance(sent, list) else answer(sent)
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: standard output is reserved for the port."""


def main() -> None:
    Handler.blocks = Blocks(Path(sys.argv[1]).read_bytes().split(b"\n"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
