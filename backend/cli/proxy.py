"""`loraledger proxy`: a local OpenAI endpoint that signs the vouchers it pays with."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import PAYER, Actor, acting
from backend.cli.amounts import parse_dollars
from backend.cli.output import echo
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.money import AMOUNT, in_dollars

if TYPE_CHECKING:
    import socket

    from backend.cli.payment_proxy import VoucherSigner
    from backend.client.api import ApiClient
    from backend.client.payments import Channel


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
    this process. At most one step for each answer is at risk, unless the gateway holds a session key too, as
    it does after `loraledger deposit` without `--no-session`. With that key it needs no vouchers: neither
    `--cap` nor `--step` binds it. This ends with the key's expiry, a day after the deposit, and the vault's
    thaw after it, 28 days at most. A day after its start the proxy signs nothing, and answers 402 until it is
    started again. Ctrl-C stops it.
    """
    import uvicorn

    from backend.cli.payment_proxy import PaymentProxy
    from backend.client.payments import own_channel

    most, ahead = parse_dollars(cap, "--cap"), parse_dollars(step, "--step")
    if not 0 < ahead <= most:
        raise InvalidInput("--step must be more than 0, and must not exceed --cap", param="step")
    with _listening(port) as listener:
        with actor.connect() as client:
            channel = own_channel(client)
            _warn_of_held_key(channel)
            signer = open_voucher_signer(client, channel, most, ahead)
            key = client.post("/v1/keys", {"name": "proxy", "spend_cap": AMOUNT.render(most)})
            server = PaymentProxy(client.api_url, str(key["secret"]), signer)
        typer.echo(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        uvicorn.Server(uvicorn.Config(server.app(), log_level="warning")).run(sockets=[listener])


def _listening(port: int) -> socket.socket:
    """A listening socket on loopback. Errors: `Conflict` if the port is in use, or not allowed."""
    from backend.loopback import listen

    try:
        return listen(port)
    except OSError as error:
        raise Conflict(f"cannot listen on port {port}: {error.strerror}; name another with --port") from error


def _warn_of_held_key(channel: Channel) -> None:
    """Say so if the gateway can charge without vouchers, as far as it states its session keys."""
    from backend.client.payments import SINCE_OPENED

    if channel.collectable_cap > channel.charged:
        text = (
            f"warning: the gateway holds a session key that may spend {in_dollars(channel.collectable_cap)} "
            f"{SINCE_OPENED}, of which {in_dollars(channel.charged)} are charged. Until that key has expired "
            "or is revoked, and for the vault's thaw after that, 28 days at most, the gateway needs no "
            "vouchers for the rest: neither --cap nor --step limits it. `loraledger balance` shows the key "
            "and its times, `loraledger revoke-session` revokes it, and `loraledger deposit --no-session` "
            "grants none."
        )
        echo(text, err=True)


def open_voucher_signer(client: ApiClient, channel: Channel, cap: int, step: int) -> VoucherSigner:
    """Create a session key, and grant it `cap` micro-units beyond the amount charged so far."""
    from backend.cli.payment_proxy import VoucherSigner
    from backend.client.keystore import LocalKey
    from backend.client.payments import SESSION_SECONDS, grant_session
    from backend.client.signing import Wallet

    key = LocalKey(secrets.token_bytes(32))
    max_cumulative = channel.charged + cap
    expiry = int(time.time()) + SESSION_SECONDS
    grant_session(client, channel, key.account, max_cumulative, expiry)
    signer = Wallet(key, client.wallet.deployment, approve=lambda _: None)
    return VoucherSigner(channel.id, signer, channel.charged, max_cumulative, step, expiry)
