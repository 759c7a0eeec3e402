"""`loraledger proxy`: a local OpenAI endpoint that signs the vouchers it pays with."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.api_client import wait_until
from backend.cli.session import User, open_client
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from backend.cli.api_client import ApiClient
    from backend.cli.payment_proxy import VoucherSigner

MICRO_PER_DOLLAR = 10**12
SESSION_SECONDS = 24 * 3600
GRANT_SECONDS = 120
PAYER = 7


def register(app: typer.Typer) -> None:
    app.command()(proxy)


def proxy(
    *,
    cap: Annotated[float, typer.Option(help="Most that may be spent, in dollars.", min=0.000001)] = 1.0,
    step: Annotated[
        float,
        typer.Option(help="Most that is signed for in advance for each answer, in dollars.", min=0.000001),
    ] = 0.1,
    port: Annotated[
        int, typer.Option(help="Port on the loopback interface; 0 selects a free one.", min=0, max=65535)
    ] = 8100,
    user: User = PAYER,
) -> None:
    """Serve an OpenAI endpoint on loopback and pay for its answers with locally signed vouchers.

    The session key is created for this run, granted by the wallet up to the cap for one day, and never leaves
    this process. The gateway holds no key; at most one step for each answer is at risk. Ctrl-C stops it.
    """
    import uvicorn

    from backend.cli.payment_proxy import PaymentProxy
    from backend.loopback import listen

    if step > cap:
        raise InvalidInput("--step must not exceed --cap", param="step")
    with open_client(user) as client:
        signer = open_voucher_signer(client, round(cap * MICRO_PER_DOLLAR), round(step * MICRO_PER_DOLLAR))
        key = client.post("/v1/keys", {"name": "proxy", "spend_cap": str(round(cap * MICRO_PER_DOLLAR))})
        server = PaymentProxy(client.api_url, str(key["secret"]), signer)
    listener = listen(port)
    typer.echo(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    uvicorn.Server(uvicorn.Config(server.app(), log_level="warning")).run(sockets=[listener])


def open_voucher_signer(client: ApiClient, cap: int, step: int) -> VoucherSigner:
    """Create a session key, grant it `cap` micro-units beyond the amount charged so far, and wait until the
    grant is indexed.
    """
    from backend.cli.payment_proxy import VoucherSigner
    from backend.cli.wallet import Wallet

    channel = client.get("/v1/channels")["data"][0]
    key = Wallet("0x" + secrets.token_hex(32), client.wallet.rpc_url)
    max_cumulative = int(channel["charged"]) + cap
    expiry = int(time.time()) + SESSION_SECONDS
    terms = {"key": key.account, "cap": str(max_cumulative), "expiry": expiry}
    prepared = client.post("/v1/sessions/prepare", terms)
    signature = client.wallet.sign_typed_data(prepared["typed_data"])
    grant = {"grant": prepared["grant"], "nonce": prepared["nonce"], "signature": signature}
    client.wait_confirmed(client.post("/v1/sessions/relay", grant))

    def is_granted() -> bool | None:
        sessions = client.get(f"/v1/channels/{channel['id']}")["sessions"]
        return any(session["key"] == key.account for session in sessions) or None

    wait_until(is_granted, "the grant of the session key to be indexed", GRANT_SECONDS)
    domain = prepared["typed_data"]["domain"]
    return VoucherSigner(channel["id"], domain, key.sign_typed_data, max_cumulative, step)
