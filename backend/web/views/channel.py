"""What the payer's wallet does with its channel: deposits, session keys, vouchers and withdrawals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from markupsafe import Markup
from pydantic import Field
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.schemas.channels import GrantBody, RelayBody
from backend.api.schemas.common import AccountField, AmountInput, Schema
from backend.api.services import Services
from backend.domain.eip712 import build_typed_data
from backend.domain.errors import Conflict
from backend.domain.hashing import VOUCHER_TYPE
from backend.domain.ids import Account
from backend.domain.money import COIN, UNIT, in_dollars, whole_units
from backend.services.accounts.local_funds import UNITS, WEI
from backend.services.channels.channels import ChannelView
from backend.services.channels.deposits import SessionTerms
from backend.web.formats import full_address, usd, when
from backend.web.forms import PageForm
from backend.web.proposal import Proposal, Term, Way, propose
from backend.web.route import PageRoute
from backend.web.visitor import SignedInDep, Visitor

router = APIRouter(prefix="/account", route_class=PageRoute)
MAX_DAYS = 366


class DepositForm(PageForm):
    """`days`: how long the market may charge the channel by a session key; 0: grants none."""

    amount: AmountInput
    days: Annotated[int, Field(ge=0, le=MAX_DAYS)]


class SessionForm(PageForm):
    """`more`: what the market may charge beyond what it has charged and reserved; default: the balance."""

    more: AmountInput | None = None
    days: Annotated[int, Field(ge=1, le=MAX_DAYS)]


class RevocationForm(PageForm):
    key: AccountField


class VoucherForm(PageForm):
    more: AmountInput


class ThawForm(PageForm):
    """`amount`: 0 cancels the thaw."""

    amount: AmountInput


@router.post("/deposit")
def propose_deposit(
    form: Annotated[DepositForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    session = SessionTerms(_after(form.days)) if form.days else None
    units = whole_units(form.amount, "amount")
    prepared = services.deposits.prepare(visitor.account, units, session)
    terms = [("Amount", usd(form.amount)), ("From", full_address(visitor.account)), _to(services, visitor)]
    if session is not None:
        terms += _grant_terms(**prepared.transactions[-1].decoded["args"]["grant"])
    ways = [Way.send(*prepared.transactions)]
    if prepared.relay is not None and prepared.typed_data is not None:
        signed = {"relay": _json(RelayBody, prepared.relay)}
        ways.insert(0, Way.sign(prepared.typed_data, "/deposits/relay", signed))
    effect = "The tokens move from your wallet into your channel. What you do not spend, you can withdraw."
    return propose(request, Proposal(f"Deposit {in_dollars(form.amount)}", terms, effect, ways))


@router.post("/funds")
def propose_funds(request: Request, visitor: SignedInDep) -> Response:
    """On the local network."""
    terms = [
        ("Dollars", usd(UNITS * UNIT)),
        ("Coin for gas", f"{WEI / COIN} of the chain's coin"),
        ("To", full_address(visitor.account)),
    ]
    effect = "Dollars and coin of this chain pay on this chain alone, and are worth nothing elsewhere."
    ways = [Way.ask_operator("/local-funds", {})]
    return propose(request, Proposal("Get test dollars", terms, effect, ways))


@router.post("/session")
def propose_session(
    form: Annotated[SessionForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    cap = None if form.more is None else _spent(_channel(services, visitor)) + form.more
    session = SessionTerms(_after(form.days), cap)
    grant, nonce, typed_data = services.deposits.prepare_grant(visitor.account, session)
    signed = {"grant": _json(GrantBody, grant), "nonce": str(nonce)}
    effect = "The market charges your answers to the channel without asking you again. You can revoke it."
    terms = [_to(services, visitor), *_grant_terms(grant.key, grant.cap, grant.expiry)]
    ways = [Way.sign(typed_data, "/sessions/relay", signed)]
    return propose(request, Proposal("Allow charges", terms, effect, ways))


@router.post("/session/revoke")
def propose_revocation(
    form: Annotated[RevocationForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    revocation = services.deposits.prepare_revocation(visitor.account, Account(form.key))
    transaction, nonce, typed_data = revocation
    signed = {"key": form.key, "nonce": str(nonce)}
    ways = [Way.sign(typed_data, "/sessions/revoke/relay", signed), Way.send(transaction)]
    terms = [("Session key", full_address(form.key)), _to(services, visitor)]
    effect = (
        "The key signs nothing any more. Answers that were charged before are still collected. API keys stop "
        "to work until you allow charges again."
    )
    return propose(request, Proposal("Revoke a session key", terms, effect, ways))


@router.post("/voucher")
def propose_voucher(
    form: Annotated[VoucherForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    channel = _channel(services, visitor)
    limit, waived_until = _spent(channel) + form.more, channel.waived_until
    services.channels.check_waiver(visitor.account, waived_until)  # else the wallet signs in vain
    message = {"channelId": channel.id, "from": str(waived_until), "maxCumulative": str(limit)}
    typed_data = build_typed_data(channel.voucher_domain.fields, VOUCHER_TYPE, message)
    path = f"/channels/{channel.id}/vouchers"
    more = Markup("up to {} more").format(usd(form.more))
    terms = [("Amount", more), ("Limit", _limit(limit)), _to(services, visitor)]
    if waived_until > channel.balance.collected:
        waived = Markup("convicted answers up to {}; they stay unpaid").format(_limit(waived_until))
        terms.append(("Waived", waived))
    effect = "The operator may collect up to the limit, for answers that it can prove."
    hint = "Your wallet signs a message for the operator. No transaction is sent now."
    signed = {"waived_until": str(waived_until), "max_cumulative": str(limit)}
    way = Way.sign(typed_data, path, signed, hint)
    return propose(request, Proposal(f"Sign a voucher for {in_dollars(form.more)}", terms, effect, [way]))


@router.post("/thaw")
def propose_thaw(
    form: Annotated[ThawForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    ways = [Way.send(services.deposits.prepare_thaw(visitor.account, form.amount))]
    if form.amount == 0:
        effect = "Nothing thaws any more: the whole balance can pay for answers again."
        return propose(request, Proposal("Cancel the withdrawal", [_to(services, visitor)], effect, ways))
    terms = [("Amount", usd(form.amount)), _to(services, visitor, "From")]
    effect = (
        "The amount pays for no further answer. When it has thawed, which takes days on a public chain, you "
        "withdraw it. This replaces a withdrawal that has started."
    )
    title = f"Start to withdraw {in_dollars(form.amount)}"
    return propose(request, Proposal(title, terms, effect, ways))


@router.post("/withdrawal")
def propose_withdrawal(request: Request, services: ServicesDep, visitor: SignedInDep) -> Response:
    channel = _channel(services, visitor)
    amount = channel.balance.thawing
    if not amount:
        raise Conflict("Nothing thaws: start a withdrawal first.")
    prepared = services.deposits.prepare_withdrawal(visitor.account)
    terms = [("Amount", usd(amount)), _to(services, visitor, "From"), ("To", full_address(visitor.account))]
    effect = "The tokens move from your channel to your wallet."
    return propose(request, Proposal(f"Withdraw {in_dollars(amount)}", terms, effect, [Way.send(prepared)]))


def _channel(services: Services, visitor: Visitor) -> ChannelView:
    return services.channels.list(visitor.account)[0]


def _spent(channel: ChannelView) -> int:
    return channel.balance.charged + channel.balance.reserved


def _after(days: int) -> int:
    return int((datetime.now(UTC) + timedelta(days=days)).timestamp())


def _to(services: Services, visitor: Visitor, name: str = "To") -> Term:
    operator = full_address(_channel(services, visitor).operator)
    return name, Markup("your channel with the operator {}").format(operator)


def _limit(cumulative: int) -> Markup:
    return Markup("{} in all since the channel was opened").format(usd(cumulative))


def _grant_terms(key: str, cap: str | int, expiry: str | int) -> list[Term]:
    """In absolute values, as they are signed."""
    return [
        ("Session key", full_address(key)),
        ("May charge", _limit(int(cap))),
        ("Until", when(int(expiry))),
    ]


def _json(schema: type[Schema], value: object) -> dict[str, Any]:
    """As the API takes it back."""
    return schema.model_validate(value, from_attributes=True).model_dump(mode="json")
