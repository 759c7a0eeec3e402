"""`loraledger wallet`: encrypted keys. `loraledger login` and `logout`: kept sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.actor import PAYER, Actor, PasswordFile, acting, read_password, read_secret, session_file
from backend.cli.output import echo, note_if_empty
from backend.domain.errors import InvalidInput

Name = Annotated[str, typer.Argument(help="Name of the wallet: letters, digits, '.', '_' and '-'.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the private key in hex. Default: ask at the terminal. Delete it afterwards."
    ),
]

commands = typer.Typer(
    help="Create and list wallets, encrypted in ~/.loraledger/keystores.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="wallet")
    app.command()(login)
    app.command()(logout)


@commands.command()
def new(name: Name, *, password_file: PasswordFile = None) -> None:
    """Create a wallet with a random key; prints its account. Keep a copy of the file and of its password:
    there is no other way to the key.
    """
    from backend.client.keystore import Keystores

    keystores = Keystores()
    keystores.refuse_existing(name)
    password = read_password(password_file, "New password", is_new=True)
    echo(keystores.add(name, os.urandom(32), password).account)


@commands.command("import")
def import_wallet(name: Name, *, key_file: KeyFile = None, password_file: PasswordFile = None) -> None:
    """Encrypt a private key that exists already; prints its account."""
    from backend.client.keystore import Keystores, parse_private_key

    keystores = Keystores()
    keystores.refuse_existing(name)
    private_key = parse_private_key(read_secret(key_file, "Private key, 64 hex digits", "--key-file"))
    password = read_password(password_file, "New password", is_new=True)
    echo(keystores.add(name, private_key, password).account)


@commands.command("list")
def list_wallets() -> None:
    """List the wallets with their accounts."""
    from backend.client.keystore import Keystores, read_keystore, stated_account

    keystores = Keystores()
    names = keystores.names()
    note_if_empty(names, "no wallets; `loraledger wallet new NAME` makes one")
    for name in names:
        try:
            account = stated_account(read_keystore(keystores.path(name)))
        except InvalidInput as error:
            echo(f"{name}  {error}")
        else:
            echo(f"{name}  {account or 'account not named in the file'}")


@commands.command()
def fund(
    recipient: Annotated[
        str, typer.Argument(metavar="ACCOUNT", help="Who receives it, from `loraledger wallet list`.")
    ],
) -> None:
    """Give an account 1,000 dollars, 50,000 votes and a coin for gas on the local network of this home."""
    from backend.client.local_stack import LocalStack
    from backend.domain.caip import account_of
    from backend.domain.deployment import LOCAL_CHAIN_ID

    LocalStack().fund(account_of(recipient, LOCAL_CHAIN_ID))
    echo(f"{recipient} received 1,000 dollars, 50,000 votes and one coin for gas")


@commands.command()
def address(name: Name, *, password_file: PasswordFile = None) -> None:
    """Print a wallet's account. The password is needed if the file does not name it."""
    from backend.client.keystore import Keystores, StoredKey

    path = Keystores().existing(name)
    echo(StoredKey(path, lambda: read_password(password_file, f"Password of {name}")).account)


@acting(PAYER)
def login(*, actor: Actor) -> None:
    """Sign in at a market and keep the session, for up to 30 days: other commands then sign in no more."""
    with actor.client() as client:
        client.sign_in().keep_session(session_file(client))
        echo(f"{client.wallet.account} is signed in at {client.api_url}")


@acting(PAYER)
def logout(*, actor: Actor) -> None:
    """End the kept session, here and at the market."""
    with actor.client() as client:
        client.sign_out(session_file(client))
        echo(f"{client.wallet.account} is signed out at {client.api_url}")
