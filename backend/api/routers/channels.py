"""Payment channels: balances, vouchers, deposits, session keys, moves and withdrawals."""

from __future__ import annotations

from fastapi import APIRouter, status

from backend.api.deps import CallerDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute
from backend.api.paging import PagingDep
from backend.api.schemas.channels import (
    ChannelView,
    DepositRequest,
    GrantBody,
    MoveBody,
    MoveQueued,
    MoveRequest,
    PreparedDepositView,
    PreparedGrantView,
    PreparedMoveView,
    PreparedRevocationView,
    RelayDepositRequest,
    RelayGrantRequest,
    RelayMoveRequest,
    RelayRevocationRequest,
    RevokeRequest,
    SessionTermsBody,
    ThawRequest,
    VoucherRequest,
)
from backend.api.schemas.common import Page, PreparedTransactionView, TransactionQueued
from backend.api.services import Services
from backend.domain.caip import account_of
from backend.domain.ids import Account
from backend.domain.voucher import SignedVoucher, Voucher

router = APIRouter(prefix="/v1", tags=["channels"], route_class=IdempotentRoute)


@router.get("/channels")
def list_channels(services: ServicesDep, caller: CallerDep, paging: PagingDep) -> Page[ChannelView]:
    """List the caller's channels."""
    found = services.channels.list(caller.account)
    return paging.page_of_all(found, lambda channel: channel.id, ChannelView.of)


@router.get("/channels/{channel}")
def get_channel(channel: str, services: ServicesDep, caller: CallerDep) -> ChannelView:
    """Retrieve a channel by its id or its operator."""
    return ChannelView.of(services.channels.get(caller.account, _channel_name(services, channel)))


@router.post("/channels/{channel}/vouchers", status_code=status.HTTP_201_CREATED)
def add_voucher(channel: str, body: VoucherRequest, services: ServicesDep, caller: CallerDep) -> ChannelView:
    """Add a voucher that the payer or its session key signed. An API key may send it."""
    channel_id = services.channels.channel_id(caller.account, _channel_name(services, channel))
    voucher = Voucher(channel_id, body.waived_until, body.max_cumulative)
    signed = SignedVoucher(voucher, body.signature)
    return ChannelView.of(services.channels.add_voucher(caller.account, signed))


@router.post("/deposits/prepare")
def prepare_deposit(body: DepositRequest, services: ServicesDep, wallet: WalletDep) -> PreparedDepositView:
    """Prepare a deposit, to send or to sign and relay. It can grant a session key."""
    session = body.session.terms() if body.session else None
    return PreparedDepositView.model_validate(services.deposits.prepare(wallet.account, body.units, session))


@router.post("/deposits/relay", status_code=status.HTTP_202_ACCEPTED)
def relay_deposit(body: RelayDepositRequest, services: ServicesDep, wallet: WalletDep) -> TransactionQueued:
    """Have the operator send a signed deposit."""
    queued = services.deposits.relay(wallet.account, body.relay.deposit(), body.signature)
    return TransactionQueued(transaction_id=queued)


@router.post("/local-funds", status_code=status.HTTP_202_ACCEPTED)
def request_local_funds(services: ServicesDep, wallet: WalletDep) -> TransactionQueued:
    """Have the operator of a local network send the caller 1,000 test dollars, and coin for gas, once. On
    other chains: 403.
    """
    return TransactionQueued(transaction_id=services.local_funds.request(wallet.account))


@router.post("/sessions/prepare")
def prepare_grant(body: SessionTermsBody, services: ServicesDep, wallet: WalletDep) -> PreparedGrantView:
    """Prepare a session key without a deposit, or a higher cap or later expiry of an existing one."""
    grant, nonce, typed_data = services.deposits.prepare_grant(wallet.account, body.terms())
    return PreparedGrantView(grant=GrantBody.model_validate(grant), nonce=nonce, typed_data=typed_data)


@router.post("/sessions/relay", status_code=status.HTTP_202_ACCEPTED)
def relay_grant(body: RelayGrantRequest, services: ServicesDep, wallet: WalletDep) -> TransactionQueued:
    """Have the operator send a signed grant of a session key."""
    queued = services.deposits.relay_grant(wallet.account, body.grant.grant(), body.nonce, body.signature)
    return TransactionQueued(transaction_id=queued)


@router.post("/sessions/revoke/prepare")
def prepare_revocation(
    body: RevokeRequest, services: ServicesDep, wallet: WalletDep
) -> PreparedRevocationView:
    """Prepare the revocation of a session key."""
    prepared = services.deposits.prepare_revocation(wallet.account, Account(body.key))
    return PreparedRevocationView.of(*prepared)


@router.post("/sessions/revoke/relay", status_code=status.HTTP_202_ACCEPTED)
def relay_revocation(
    body: RelayRevocationRequest, services: ServicesDep, wallet: WalletDep
) -> TransactionQueued:
    """Have the operator send a signed revocation."""
    key = Account(body.key)
    queued = services.deposits.relay_revocation(wallet.account, key, body.nonce, body.signature)
    return TransactionQueued(transaction_id=queued)


@router.post("/moves/prepare")
def prepare_move(body: MoveRequest, services: ServicesDep, wallet: WalletDep) -> PreparedMoveView:
    """Prepare a move of the balance to the caller's channel under another collector, without a thaw."""
    collector, grant = Account(body.new_collector), body.grant()
    terms, typed_data = services.moves.prepare(wallet.account, collector, body.max_amount, grant)
    return PreparedMoveView(move=MoveBody.model_validate(terms), typed_data=typed_data)


@router.post("/moves/relay", status_code=status.HTTP_202_ACCEPTED)
def relay_move(body: RelayMoveRequest, services: ServicesDep, wallet: WalletDep) -> MoveQueued:
    """Have the operator send a signed move of all that is neither charged nor reserved, up to its maximum."""
    queued = services.moves.relay(wallet.account, body.move.terms(), body.signature)
    return MoveQueued(transaction_id=queued.transaction_id, amount=queued.amount)


@router.post("/withdrawals/thaw/prepare")
def prepare_thaw(body: ThawRequest, services: ServicesDep, wallet: WalletDep) -> PreparedTransactionView:
    """Prepare the start of a withdrawal: the amount thaws for some days."""
    return PreparedTransactionView.model_validate(services.deposits.prepare_thaw(wallet.account, body.amount))


@router.post("/withdrawals/prepare")
def prepare_withdrawal(services: ServicesDep, wallet: WalletDep) -> PreparedTransactionView:
    """Prepare the withdrawal of a thawed amount."""
    return PreparedTransactionView.model_validate(services.deposits.prepare_withdrawal(wallet.account))


def _channel_name(services: Services, channel: str) -> str:
    """Normalise a channel's id, or its operator's address or CAIP-10 id."""
    return account_of(channel, services.sign_in.chain_id) if ":" in channel else channel.lower()
