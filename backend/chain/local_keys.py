"""The well-known keys of the local chain. They are public: use them on a local chain only."""

from __future__ import annotations

from eth_account import Account as EthAccount

LOCAL_MNEMONIC = "test test test test test test test test test test test junk"


def local_private_key(index: int) -> str:
    """A private key of the development mnemonic, 0x-hex."""
    EthAccount.enable_unaudited_hdwallet_features()
    account = EthAccount.from_mnemonic(LOCAL_MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
    return "0x" + bytes(account.key).hex()
