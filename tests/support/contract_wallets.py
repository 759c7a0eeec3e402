"""EVM code of valid and invalid contract wallets (EIP-1271), and its installation on a development chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.chain.node import Node
    from backend.domain.ids import Account

MAGIC = "1626ba7e"
RETURN_WORD = "60005260206000f3"
"""MSTORE at 0, RETURN 32 bytes."""

ACCEPTS_ALL = f"63{MAGIC}60e01b{RETURN_WORD}"
DISHONEST = {
    "reverts": "60006000fd",
    "reverts with a word": "60ff60005260206000fd",
    "answers true to everything": f"6001{RETURN_WORD}",
    "answers in the wrong end of the word": f"63{MAGIC}{RETURN_WORD}",
    "adds something to the word": f"63{MAGIC}60e01b600117{RETURN_WORD}",
    "answers four bytes": f"63{MAGIC}6000526004601cf3",
    "answers nothing": "60006000f3",
    "answers a megabyte": "621000006000f3",
    "never ends": "5b600056",
    "is no code": "fe",
    "takes what is not there": "01",
}


def owned_by(owner: Account) -> str:
    """Accept signatures of this key: ecrecover over r, s, v from the call, compared with the owner."""
    copies = "60043560005260a43560f81c602052606435604052608435606052"
    recovered = "602060806080600060015afa50608051"
    return f"{copies}{recovered}73{owner[2:]}1463{MAGIC}60e01b02{RETURN_WORD}"


def place(node: Node, account: Account, code: str) -> None:
    node.rpc.request("hardhat_setCode", account, f"0x{code}")
