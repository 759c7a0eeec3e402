"""Libraries do not raise Python's recursion limit in processes that read JSON of others."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
limit = sys.getrecursionlimit()
import {first}
import backend.chain.rpc, backend.client.signing, eth_account, py_ecc.bls, web3
from backend.domain.deployment import parse_deployment
from backend.domain.errors import InvalidInput
assert sys.getrecursionlimit() == limit, sys.getrecursionlimit()
for text in (b"[" * 1_000_000, b'{"a":' * 1_000_000):
    try:
        parse_deployment(text, "the record")
    except InvalidInput as error:
        print(error)
"""


@pytest.mark.parametrize("first", ["backend", "eth_account"])
def test_json_that_nests_deep_is_refused_and_does_not_end_the_process(first: str) -> None:
    code = CODE.replace("{first}", first)
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("the record is not a deployment file: RecursionError") == 2
