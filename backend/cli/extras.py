"""Extras of the distribution that commands need. The light install, without any, has the actors' commands."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperCommand

from backend.domain.errors import DomainError

DISTRIBUTION = "loraledger"
SERVER, OPERATOR, DEMO = "server", "operator", "demo"
_SERVER = ("alembic", "celery", "fastapi", "pydantic_settings", "sqlalchemy", "web3")
PACKAGES = {
    SERVER: _SERVER,
    OPERATOR: (*_SERVER, "torch"),  # it includes the extra `server`
    DEMO: ("openai",),
}
"""Import names by which an extra is recognised. None of them is in the light install."""


class MissingExtra(DomainError):
    """The command needs an extra that is not installed. `details` has the extras."""


def is_installed(extra: str) -> bool:
    return all(find_spec(package) is not None for package in PACKAGES[extra])


def require(what: str, *extras: str) -> None:
    """Check that these extras are installed. `what` needs them. Errors: `MissingExtra`."""
    missing = [extra for extra in extras if not is_installed(extra)]
    if missing:
        names = " and ".join(missing)
        raise MissingExtra(
            f"{what} needs the {'extra' if len(missing) == 1 else 'extras'} {names}, which the light install "
            f"does not have: pip install '{DISTRIBUTION}[{','.join(extras)}]'"
        )


def needing(extras: tuple[str, ...], register: Callable[[typer.Typer], object]) -> typer.Typer:
    """The commands that `register` adds, each of which checks before it runs that the extras are installed.

    Their help does not need them. The modules of these commands import what the extras bring in functions.
    """

    class Command(TyperCommand):
        def invoke(self, ctx: Any) -> Any:
            require(f"`{ctx.command_path}`", *extras)
            return super().invoke(ctx)

    def check_all(commands: typer.Typer) -> None:
        for command in commands.registered_commands:
            command.cls = Command
        for group in commands.registered_groups:
            if group.typer_instance is not None:
                check_all(group.typer_instance)

    commands = typer.Typer()
    register(commands)
    check_all(commands)
    return commands
