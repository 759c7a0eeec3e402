"""A wallet in a page: announced by EIP-6963, it signs with a local key, or refuses as wallets do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eth_account.messages import _hash_eip191_message, encode_typed_data

from backend.chain.rpc import RpcError
from backend.domain.hashing import to_bytes
from backend.domain.sign_in_message import personal_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from backend.chain.keys import LocalSigner

NAME = "Wallet of the test"
DECLINED, INVALID_PARAMS, NODE_ERROR = 4001, -32602, -32000
_SCRIPT = """
(() => {
  const provider = {
    async request({ method, params }) {
      await window.walletIsOpen;
      const { result, error } = await window.askWallet(method, params ?? []);
      if (error) throw Object.assign(new Error(error.message), { code: error.code });
      return result;
    },
  };
  const info = { uuid: "00000000-0000-4000-8000-000000000001", name: "%s", icon: "", rdns: "test" };
  const announce = () => window.dispatchEvent(
    new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider }) }));
  window.addEventListener("eip6963:requestProvider", announce);
  announce();
})();
"""


class Refusal(Exception):
    """What an EIP-1193 provider rejects with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class PageWallet:
    """`node` answers what is not the wallet's own: requests to its chain, `eth_sendTransaction` too, whose
    sender must be an account of the node. `declines`: methods it refuses; `others`: accounts that
    it lists first. `hold` has it answer only after `release`.
    """

    signer: LocalSigner
    chain_id: int
    node: Callable[[str, list[Any]], Any] | None = None
    declines: set[str] = field(default_factory=set)
    signed: list[str] = field(default_factory=list)
    others: tuple[str, ...] = ()

    def install(self, page: Page) -> None:
        page.expose_function("askWallet", self._answer)
        page.add_init_script(_SCRIPT % NAME)

    def hold(self, page: Page) -> None:
        page.evaluate("() => { window.walletIsOpen = new Promise((ends) => (window.closeWallet = ends)); }")

    def release(self, page: Page) -> None:
        page.evaluate("() => window.closeWallet()")

    def _answer(self, method: str, params: list[Any]) -> dict[str, Any]:
        try:
            return {"result": self._request(method, params)}
        except Refusal as error:
            return {"error": {"code": error.code, "message": str(error)}}
        except RpcError as error:
            return {"error": {"code": NODE_ERROR, "message": error.message}}

    def _request(self, method: str, params: list[Any]) -> Any:
        if method in self.declines:
            raise Refusal(DECLINED, "User rejected the request.")
        if method in {"eth_requestAccounts", "eth_accounts"}:
            return [*self.others, self.signer.account]
        if method == "eth_chainId":
            return hex(self.chain_id)
        if method == "wallet_switchEthereumChain":
            self.chain_id = int(params[0]["chainId"], 16)
            return None
        if method == "personal_sign":
            text = to_bytes(params[0]).decode()
            self.signed.append(text)
            return self.signer.sign(personal_digest(text))
        if method == "eth_signTypedData_v4":
            self.signed.append(params[1])
            signable = encode_typed_data(full_message=json.loads(params[1]))
            return self.signer.sign(_hash_eip191_message(signable))
        if method == "eth_sendTransaction" and int(params[0].get("chainId", "0x0"), 16) != self.chain_id:
            raise Refusal(INVALID_PARAMS, "The transaction is for another chain.")
        if self.node is None:
            raise Refusal(4200, f"{method} is not supported")
        return self.node(method, params)
