"""`loraledger proxy`: a local OpenAI endpoint that signs vouchers itself."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.client import until
from backend.cli.session import User, open_market
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from backend.cli.client import Market
    from backend.cli.proxy_server import Purse

MICRO_PER_DOLLAR = 10**12
SESSION_SECONDS = 24 * 3600
GRANT_SECONDS = 120
PAYER = 7


def register(app: typer.Typer) -> None:
    app.command()(proxy)


def proxy(
    *,
    cap: Annotated[float, typer.Option(help="Spend at most this, in dollars.", min=0.000001)] = 1.0,
    step: Annotated[
        float, typer.Option(help="Sign at most this far ahead for each answer, in dollars.", min=0.000001)
    ] = 0.1,
    port: Annotated[int, typer.Option(help="Port of loopback; 0 for a free one.", min=0, max=65535)] = 8100,
    user: User = PAYER,
) -> None:
    """Serve an OpenAI endpoint on loopback whose answers are paid by vouchers that are signed here.

    The key that signs is made for this run, granted by the wallet up to the cap for a day, and never leaves
    this process: a gateway holds no key, and what is at risk is one step for each answer. Ctrl-C ends it.
    """
    import uvicorn

    from backend.cli.proxy_server import Proxy
    from backend.loopback import listen

    if step > cap:
        raise InvalidInput("--step is more than --cap", param="step")
    with open_market(user) as market:
        purse = open_purse(market, round(cap * MICRO_PER_DOLLAR), round(step * MICRO_PER_DOLLAR))
        key = market.post("/v1/keys", {"name": "proxy", "spend_cap": str(round(cap * MICRO_PER_DOLLAR))})
        served = Proxy(market.api_url, str(key["secret"]), purse)
    listener = listen(port)
    typer.echo(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    uvicorn.Server(uvicorn.Config(served.app(), log_level="warning")).run(sockets=[listener])


def open_purse(market: Market, cap: int, step: int) -> Purse:
    """A new session key, granted up to `cap` micro-units beyond what is charged, once the grant counts."""
    from backend.cli.proxy_server import Purse
    from backend.cli.wallet import Wallet

    channel = market.get("/v1/channels")["data"][0]
    signer = Wallet("0x" + secrets.token_hex(32), market.wallet.rpc_url)
    end = int(channel["charged"]) + cap
    terms = {"key": signer.account, "cap": str(end), "expiry": int(time.time()) + SESSION_SECONDS}
    prepared = market.post("/v1/sessions/prepare", terms)
    signature = market.wallet.sign_typed_data(prepared["typed_data"])
    grant = {"grant": prepared["grant"], "nonce": prepared["nonce"], "signature": signature}
    market.wait_for(market.post("/v1/sessions/relay", grant))

    def granted() -> bool | None:
        sessions = market.get(f"/v1/channels/{channel['id']}")["sessions"]
        return any(each["key"] == signer.account for each in sessions) or None

    until(granted, "the grant of the session key to count", GRANT_SECONDS)
    domain = prepared["typed_data"]["domain"]
    return Purse(channel["id"], domain, signer.sign_typed_data, end, step)
