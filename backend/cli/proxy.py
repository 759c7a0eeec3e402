"""`loraledger proxy`: a local OpenAI endpoint that signs the vouchers it pays with."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import Actor, acting
from backend.cli.amounts import parse_dollars
from backend.domain.errors import InvalidInput
from backend.domain.money import AMOUNT

if TYPE_CHECKING:
    from backend.cli.payment_proxy import VoucherSigner
    from backend.client.api import ApiClient

SESSION_SECONDS = 24 * 3600
PAYER = 7


def register(app: typer.Typer) -> None:
    app.command()(proxy)


@acting(PAYER)
def proxy(
    *,
    cap: Annotated[str, typer.Option(metavar="DOLLARS", help="Most that may be spent, in dollars.")] = "1",
    step: Annotated[
        str,
        typer.Option(
            metavar="DOLLARS", help="Most that is signed for in advance for each answer, in dollars."
        ),
    ] = "0.1",
    port: Annotated[
        int, typer.Option(help="Port on the loopback interface; 0 selects a free one.", min=0, max=65535)
    ] = 8100,
    actor: Actor,
) -> None:
    """Serve an OpenAI endpoint on loopback and pay for its answers with locally signed vouchers.

    The session key is created for this run, granted by the wallet up to the cap for one day, and never leaves
    this process. The gateway holds no key; at most one step for each answer is at risk. Ctrl-C stops it.
    """
    import uvicorn

    from backend.cli.payment_proxy import PaymentProxy
    from backend.loopback import listen

    most, ahead = parse_dollars(cap, "--cap"), parse_dollars(step, "--step")
    if not 0 < ahead <= most:
        raise InvalidInput("--step must be more than 0, and must not exceed --cap", param="step")
    with actor.connect() as client:
        signer = open_voucher_signer(client, most, ahead)
        key = client.post("/v1/keys", {"name": "proxy", "spend_cap": AMOUNT.render(most)})
        server = PaymentProxy(client.api_url, str(key["secret"]), signer)
    listener = listen(port)
    typer.echo(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    uvicorn.Server(uvicorn.Config(server.app(), log_level="warning")).run(sockets=[listener])


def open_voucher_signer(client: ApiClient, cap: int, step: int) -> VoucherSigner:
    """Create a session key, and grant it `cap` micro-units beyond the amount charged so far."""
    from backend.cli.payment_proxy import VoucherSigner
    from backend.client.keystore import LocalKey
    from backend.client.payments import grant_session, own_channel
    from backend.client.signing import Wallet

    channel = own_channel(client)
    key = LocalKey(secrets.token_bytes(32))
    max_cumulative = channel.charged + cap
    grant_session(client, channel, key.account, max_cumulative, int(time.time()) + SESSION_SECONDS)
    signer = Wallet(key, client.wallet.deployment, approve=lambda _: None)
    return VoucherSigner(channel.id, signer, channel.charged, max_cumulative, step)
