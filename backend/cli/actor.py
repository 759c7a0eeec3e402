"""Who signs, and at which market: the options of all actors' commands, as Foundry's `cast` has them."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.output import echo
from backend.domain.errors import Forbidden, InvalidInput, NotFound

if TYPE_CHECKING:
    from backend.client.api import ApiClient, PublicClient
    from backend.client.keystore import Key
    from backend.client.sessions import SessionFile
    from backend.client.signing import Statement, Wallet

Command = Callable[..., None]

CONTRIBUTOR, CREATOR, PAYER, VOTER = 3, 6, 7, 8
"""Indices of the test accounts that sign on the local network by default."""

PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        envvar="ETH_PASSWORD",
        help="File with the keystore's password. Default: ask at the terminal.",
    ),
]
DeploymentOption = Annotated[
    str,
    typer.Option(
        "--deployment",
        envvar="LORALEDGER_DEPLOYMENT",
        help="Record of the market's contracts, a file or the chain id of one that is shipped.",
    ),
]
OPTIONS: dict[str, Any] = {
    "user": Annotated[
        int | None,
        typer.Option(
            "--user",
            help="Index of the test account that signs on the local network. Default: by command, see "
            "docs/wallets.md.",
            min=0,
            max=8,
        ),
    ],
    "account": Annotated[
        str,
        typer.Option(
            "--account",
            envvar="ETH_KEYSTORE_ACCOUNT",
            help="Name of the wallet that signs, see `loraledger wallet list`.",
        ),
    ],
    "keystore": Annotated[
        Path | None,
        typer.Option("--keystore", envvar="ETH_KEYSTORE", help="Keystore file that signs."),
    ],
    "password_file": PasswordFile,
    "market": Annotated[
        str,
        typer.Option(
            "--market",
            envvar="LORALEDGER_MARKET",
            help="URL of the market. Default: the stack of `loraledger up` in this home.",
        ),
    ],
    "deployment": DeploymentOption,
    "rpc_url": Annotated[
        str,
        typer.Option(
            "--rpc-url",
            envvar="ETH_RPC_URL",
            help="Node of the market's chain, for transactions that the wallet sends itself.",
        ),
    ],
    "is_agreed": Annotated[bool, typer.Option("--yes", help="Sign without asking for confirmation.")],
}
DEFAULTS = {"user": None, "keystore": None, "password_file": None, "is_agreed": False}
"""Of the other options: the empty string."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A wallet and a market, as the options name them. `default_user` signs on the local network."""

    default_user: int
    user: int | None = None
    account: str = ""
    keystore: Path | None = None
    password_file: Path | None = None
    market: str = ""
    deployment: str = ""
    rpc_url: str = ""
    is_agreed: bool = False

    @contextmanager
    def connect(self) -> Iterator[ApiClient]:
        """Sign the wallet in, or continue the session that `loraledger login` kept.

        Errors: `NotFound`, `InvalidInput`, `Forbidden` for options that do not fit; those of `ApiClient`.
        """
        with self.client() as client:
            yield client.resume(session_file(client))

    @contextmanager
    def browse(self) -> Iterator[PublicClient]:
        """Read what the market shows to everybody: without a wallet, its password, or the market's record.

        Errors: `NotFound` if no market is named and none runs in this home; those of `PublicClient`.
        """
        from backend.client.api import PublicClient
        from backend.client.local_stack import LocalStack

        url = self.market or LocalStack().api_url
        with PublicClient(url, is_own=not self.market) as client:
            yield client

    def client(self) -> ApiClient:
        """The client of the API, not signed in."""
        from backend.client.api import ApiClient

        url, wallet = self._at_market() if self.market else self._at_home()
        return ApiClient(url, wallet, is_own=not self.market, notice=_notice)

    def wallet(self) -> Wallet:
        """The wallet alone, for transactions that need no market; the market's record is enough. A test
        account signs at home; `LORALEDGER_DEPLOYMENT` is ignored then.
        """
        is_at_home = not self.market and (self.user is not None or not self.deployment)
        return (self._at_home() if is_at_home else self._at_market())[1]

    def _key(self) -> Key:
        """The key of a wallet. Errors: `InvalidInput` if the options name none, or more than one."""
        from backend.client.keystore import Keystores, StoredKey

        if self.account and self.keystore:
            raise InvalidInput("name either --account or --keystore", param="account")
        if not self.account and not self.keystore:
            raise InvalidInput(
                "name the wallet that signs with --account or --keystore; `loraledger wallet new` makes one",
                param="account",
            )
        path = self.keystore or Keystores().existing(self.account)
        return StoredKey(path, lambda: read_password(self.password_file, f"Password of {path.name}"))

    def confirm(self, question: str) -> None:
        """Ask before a command goes on. Errors: `typer.Abort`; `Forbidden` without terminal and `--yes`."""
        if self.is_agreed:
            return
        if not sys.stdin.isatty():
            raise Forbidden("no terminal to ask for confirmation at: repeat the command with --yes")
        typer.confirm(question, abort=True, err=True)

    def _at_market(self) -> tuple[str, Wallet]:
        from backend.client.deployments import pinned_deployment
        from backend.client.signing import Wallet

        if self.user is not None:
            raise Forbidden(
                "--user signs on the local network of this home only, since the test keys are public: name a "
                "wallet with --account",
                param="user",
            )
        deployment = pinned_deployment(self.deployment)
        return self.market, Wallet(self._key(), deployment, self._approve, self.rpc_url)

    def _at_home(self) -> tuple[str, Wallet]:
        from backend.client.local_stack import LocalStack
        from backend.client.signing import Wallet

        stack = LocalStack()
        deployment = stack.deployment
        if self.user is None and (self.account or self.keystore):
            return stack.api_url, Wallet(self._key(), deployment, self._approve, stack.node_url)
        key = stack.user_key(self.default_user if self.user is None else self.user)
        return stack.api_url, Wallet(key, deployment, lambda _: None, stack.node_url)

    def _approve(self, statement: Statement) -> None:
        echo(f"{statement.action}:", err=True)
        width = max(len(name) for name, _ in statement.terms)
        for name, value in statement.terms:
            echo(f"  {name:{width}}  {value}", err=True)
        self.confirm("Sign it?")


def acting(default_user: int) -> Callable[[Command], Command]:
    """Give a command the options of an actor; they reach it as its parameter `actor`."""
    give = taking("actor", OPTIONS, lambda chosen: Actor(default_user, **chosen), DEFAULTS)
    return lambda command: give(_showing_answers(command))


def _showing_answers(command: Command) -> Command:
    """Raise `NotAMarket` where the market answers in another form than the command shows."""

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> None:
        from backend.client.errors import READING_ERRORS, NotAMarket

        try:
            command(*args, **values)
        except READING_ERRORS as error:
            raise NotAMarket(f"what the market answered cannot be shown: {error!r}") from error

    return run


def taking(
    parameter: str,
    options: Mapping[str, Any],
    build: Callable[[dict[str, Any]], object],
    defaults: Mapping[str, Any],
) -> Callable[[Command], Command]:
    """Give a command options that reach it together, as one parameter that `build` makes of their values.

    `defaults`: those of the options; the empty string where there is none.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in options}
            command(**{parameter: build(chosen)}, **values)

        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != parameter]
        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name, ""), annotation=option
            )
            for name, option in options.items()
        ]
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in (*own, *added)}
        return run

    return decorate


def session_file(client: ApiClient) -> SessionFile:
    from backend.client.sessions import SessionFile

    return SessionFile(client.api_url, client.wallet.account)


def read_password(file: Path | None, prompt: str, *, is_new: bool = False) -> str:
    """Errors: those of `read_secret`; `InvalidInput` if a new password is empty."""
    found = read_secret(file, prompt, "--password-file or ETH_PASSWORD", is_new=is_new)
    if is_new and not found:
        raise InvalidInput("an empty password protects nothing", param="password")
    return found


def read_secret(file: Path | None, prompt: str, option: str, *, is_new: bool = False) -> str:
    """Read a secret from the file, or ask at the terminal, twice if it is new.

    `option` names a file instead of the terminal. Errors: `NotFound`, `Forbidden`; `InvalidInput` for a file
    of another kind.
    """
    if file is not None:
        if not file.is_file():
            raise NotFound(f"no file {file}: name one with {option}")
        try:
            return file.read_text().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{file} is not text: name a file with {option} that is") from error
    if not sys.stdin.isatty():
        raise Forbidden(f"{prompt}: there is no terminal to ask at; name a file with {option}")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=is_new, err=True))


def _notice(text: str) -> None:
    echo(text, err=True)
