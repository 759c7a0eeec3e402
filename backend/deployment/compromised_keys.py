"""Accounts whose private keys are public. On a public chain anyone can act as such an account."""

from __future__ import annotations

from functools import cache

import coincurve
from eth_account import Account as EthAccount

from backend.chain.keys import LocalSigner
from backend.chain.local_keys import LOCAL_MNEMONIC
from backend.domain.ids import Account

MNEMONICS = (
    LOCAL_MNEMONIC,
    "myth like bonus scare over problem client lizard pioneer submit female collect",
)
"""Default mnemonics of Hardhat, Anvil and Foundry, and of Ganache."""
NUM_ACCOUNTS = 20
"""Accounts per mnemonic."""
NUM_SMALL_KEYS = 16
"""The private keys 1, 2, 3, ..."""


@cache
def compromised_accounts() -> frozenset[Account]:
    EthAccount.enable_unaudited_hdwallet_features()
    derived = (
        EthAccount.from_mnemonic(mnemonic, account_path=f"m/44'/60'/0'/0/{index}").address
        for mnemonic in MNEMONICS
        for index in range(NUM_ACCOUNTS)
    )
    small = (
        LocalSigner(coincurve.PrivateKey.from_int(n).secret).account for n in range(1, NUM_SMALL_KEYS + 1)
    )
    return frozenset(Account(address.lower()) for address in derived) | frozenset(small)
