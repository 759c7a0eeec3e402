"""Why contracts refuse calls, in words that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.texts import instant
from backend.web.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.chain import Reverted

WORDS: Mapping[str, str] = {
    "ContributorsShareTooLow": "This market leaves contributors more: lower the operators' share or yours.",
    "ERC20InsufficientBalance": "Your wallet holds too little of the payment token. Send it some first.",
    "GovernorAlreadyCastVote": "You have voted on this proposal already. A vote cannot be changed.",
    "GovernorInsufficientProposerVotes": "You have too few votes for a proposal. Tokens count once they are "
    "delegated, to yourself for example.",
    "GovernorUnexpectedProposalState": "The proposal's state does not allow that now. Reload the page.",
    "InsufficientBalance": "The channel holds less than that. Enter a smaller amount.",
    "NothingThawing": "Nothing thaws: start a withdrawal first.",
    "OperatorShareOutOfRange": "The operators' share is outside the bounds of this market, which follow.",
    "ParameterSetNotCurrent": "Another change was carried out since. Propose this one again.",
    "StillThawing": "The amount still thaws. Withdraw it after the time on the page.",
    "TimelockUnexpectedOperationState": "The timelock's delay has not passed. Wait for the time on the page.",
    "VersionAlreadyRegistered": "The adapter is registered at these prices already. Change one of them.",
}
"""By the name of the contract's custom error."""


def refusal_words(error: Reverted) -> str:
    """What to do, and the contract's own words after it."""
    words = _bounds(error) or _earliest(error) or WORDS.get(error.error)
    return error.message if words is None else f"{words} ({error.message})"


def _earliest(error: Reverted) -> str | None:
    """Of the next change of parameters."""
    if error.error != "AppendedTooEarly":
        return None
    at = instant(int(error.args_by_name["nextAppendAt"]))
    return f"Another change was carried out just before. This one can be carried out from {at} on."


def _bounds(error: Reverted) -> str | None:
    """Of a parameter, in its unit."""
    if error.error != "OutOfBounds":
        return None
    args = error.args_by_name
    name = bytes.fromhex(str(args.get("parameter", "0x"))[2:]).rstrip(b"\0").decode("ascii", "replace")
    if name not in PARAMETERS:
        return None
    one = PARAMETERS[name]
    value, least, most = (one.write(int(args[key])) for key in ("value", "min", "max"))
    return f"{one.words}: {value} is outside of the bounds that the contract fixes, {least} to {most}."
