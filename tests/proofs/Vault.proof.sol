// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {
    Authorization,
    Channel,
    ChannelId,
    ChannelMove,
    Collection,
    Refund,
    Session,
    SessionGrant
} from "../../contracts/interfaces/IPaymentVault.sol";
import {AnyVault} from "./AnyVault.sol";

/// @notice Invariant 2, one proof per function, each from arbitrary storage of the vault: per channel, deposited and
/// moved in = balance + withdrawn + moved out + paid into the pot; the paid amount is signed and decreases only by a
/// refund. By induction over the calls the invariant always holds: it holds for the empty vault, and no call violates
/// it.
contract VaultProof is AnyVault {
    // --- collections ---

    function check_collect_moves_what_it_says(Collection calldata c, address operator, address collector) external {
        _begin(c.payer, operator, collector);
        Books memory old = _books();
        _collect(c);
        Books memory current = _books();
        uint256 paid = c.until - (c.from > c.before ? c.from : c.before);
        assert(current.balance + paid == old.balance);
        assert(current.pot == old.pot + paid);
        assert(old.collected == c.before && current.collected == c.until);
        assert(paid != 0 && paid <= current.collected - old.collected);
    }

    function check_collect_takes_only_what_is_signed(Collection calldata c, address operator, address collector) external {
        _begin(c.payer, operator, collector);
        address signer = _signer(c);
        Session memory session = _vault.sessionOf(_id(), signer);
        _collect(c);
        assert(c.until <= c.maxCumulative);
        assert(signer != address(0));
        if (signer == c.payer) return;
        assert(session.expiry != 0 && c.until <= session.cap);
        assert(block.timestamp <= uint256(session.expiry) + 7 days);
    }

    function check_collect_leaves_other_channels(
        Collection calldata c,
        address operator,
        address collector,
        ChannelId other,
        address otherCollector,
        address otherOperator
    ) external {
        _begin(c.payer, operator, collector);
        vm.assume(ChannelId.unwrap(other) != ChannelId.unwrap(_id()));
        vm.assume(otherCollector != collector || otherOperator != operator);
        Channel memory old = _vault.channelOf(other);
        uint128 oldPot = _vault.potOf(otherCollector, otherOperator);
        _collect(c);
        _assertSame(old, _vault.channelOf(other));
        assert(_vault.potOf(otherCollector, otherOperator) == oldPot);
    }

    function check_refund_moves_what_it_says(Refund calldata r, address operator, address collector) external {
        _begin(r.payer, operator, collector);
        Books memory old = _books();
        _refund(r);
        Books memory current = _books();
        assert(current.balance == old.balance + (r.until - r.from));
        assert(current.pot + (r.until - r.from) == old.pot);
        assert(old.collected == r.until && current.collected == r.before);
        assert(r.until - r.from <= old.collected - current.collected);
    }

    function check_refund_leaves_other_channels(
        Refund calldata r,
        address operator,
        address collector,
        ChannelId other
    ) external {
        _begin(r.payer, operator, collector);
        vm.assume(ChannelId.unwrap(other) != ChannelId.unwrap(_id()));
        Channel memory old = _vault.channelOf(other);
        _refund(r);
        _assertSame(old, _vault.channelOf(other));
    }

    // --- deposits, withdrawals, payments out of a pot ---

    function check_deposit(
        address payer,
        address operator,
        address collector,
        uint256 units,
        SessionGrant calldata grant
    ) external {
        _begin(payer, operator, collector);
        Books memory old = _books();
        vm.prank(payer);
        _vault.deposit(operator, collector, units, grant);
        _assertDeposited(old, units);
    }

    function check_deposit_leaves_other_channels(
        address payer,
        address operator,
        address collector,
        uint256 units,
        ChannelId other
    ) external {
        _begin(payer, operator, collector);
        vm.assume(ChannelId.unwrap(other) != ChannelId.unwrap(_id()));
        Channel memory old = _vault.channelOf(other);
        SessionGrant memory none;
        vm.prank(payer);
        _vault.deposit(operator, collector, units, none);
        _assertSame(old, _vault.channelOf(other));
    }

    function check_deposit_with_authorization(
        address payer,
        address operator,
        address collector,
        uint256 units,
        bytes calldata signature
    ) external {
        _begin(payer, operator, collector);
        Books memory old = _books();
        SessionGrant memory none;
        Authorization memory authorization;
        authorization.signature = signature;
        _vault.depositWithAuthorization(payer, operator, collector, units, none, authorization);
        _assertDeposited(old, units);
    }

    function check_withdraw(address payer, address operator, address collector) external {
        _begin(payer, operator, collector);
        Books memory old = _books();
        uint128 thawing = _vault.channelOf(_id()).thawing;
        vm.prank(payer);
        uint256 amount = _vault.withdraw(operator, collector);
        Books memory current = _books();
        assert(current.balance + amount == old.balance && amount <= thawing);
        assert(current.collected == old.collected && current.pot == old.pot);
    }

    function check_withdraw_leaves_other_channels(address payer, address operator, address collector, ChannelId other) external {
        _begin(payer, operator, collector);
        vm.assume(ChannelId.unwrap(other) != ChannelId.unwrap(_id()));
        Channel memory old = _vault.channelOf(other);
        vm.prank(payer);
        _vault.withdraw(operator, collector);
        _assertSame(old, _vault.channelOf(other));
    }

    function check_pay_out_touches_the_pot_alone(
        address payer,
        address operator,
        address collector,
        address to,
        uint256 units,
        uint128 limit
    ) external {
        _begin(payer, operator, collector);
        Books memory old = _books();
        vm.prank(collector);
        _vault.payOut(operator, to, units, limit);
        Books memory current = _books();
        assert(current.pot + units * 1e6 == old.pot && units * 1e6 <= limit);
        assert(current.balance == old.balance && current.collected == old.collected);
    }

    // --- moves ---

    /// @dev The channels can be the same one, which then keeps its balance.
    function check_move_moves_what_it_says(
        address payer,
        address operator,
        ChannelMove calldata move,
        uint128 amount,
        bytes calldata signature
    ) external {
        _begin(payer, operator, move.collector);
        (Books memory old, Books memory oldNext) = (_books(), _booksUnder(move.newCollector));
        vm.prank(operator);
        _vault.moveBalance(payer, move, amount, signature);
        (Books memory current, Books memory next) = (_books(), _booksUnder(move.newCollector));
        uint256 moved = move.collector == move.newCollector ? 0 : amount;
        assert(current.balance + moved == old.balance && next.balance == oldNext.balance + moved);
        assert(current.collected == old.collected && next.collected == oldNext.collected);
        assert(current.pot == old.pot && next.pot == oldNext.pot);
        assert(amount != 0 && amount <= old.balance);
    }

    /// @dev The signature names the caller as the operator, and its nonce is used once.
    function check_move_takes_only_what_is_signed(
        address payer,
        address operator,
        ChannelMove calldata move,
        uint128 amount,
        bytes calldata signature
    ) external {
        _begin(payer, operator, move.collector);
        address signer = _moveSigner(move, signature);
        uint256 nonce = _vault.nonces(payer);
        vm.prank(operator);
        _vault.moveBalance(payer, move, amount, signature);
        assert(signer == payer && signer != address(0));
        assert(amount <= move.maxAmount && block.timestamp <= move.deadline);
        assert(nonce == move.nonce && _vault.nonces(payer) != nonce);
    }

    function check_move_leaves_other_channels(
        address payer,
        address operator,
        ChannelMove calldata move,
        uint128 amount,
        bytes calldata signature,
        ChannelId other,
        address otherCollector,
        address otherOperator
    ) external {
        _begin(payer, operator, move.collector);
        vm.assume(ChannelId.unwrap(other) != ChannelId.unwrap(_id()));
        ChannelId next = _vault.channelIdOf(payer, operator, move.newCollector);
        vm.assume(ChannelId.unwrap(other) != ChannelId.unwrap(next));
        Channel memory old = _vault.channelOf(other);
        uint128 oldPot = _vault.potOf(otherCollector, otherOperator);
        vm.prank(operator);
        _vault.moveBalance(payer, move, amount, signature);
        _assertSame(old, _vault.channelOf(other));
        assert(_vault.potOf(otherCollector, otherOperator) == oldPot);
    }

    // --- everything else ---

    /// @dev Thaws and all functions of session keys, by any caller with any arguments.
    function check_nothing_else_moves_money(address payer, address operator, address collector, address sender) external {
        _begin(payer, operator, collector);
        Books memory old = _books();
        bytes memory data = svm.createCalldata("PaymentVault");
        vm.assume(!_movesMoney(bytes4(data)));
        vm.prank(sender);
        (bool success, ) = address(_vault).call(data);
        vm.assume(success);
        Books memory current = _books();
        assert(current.balance == old.balance && current.collected == old.collected && current.pot == old.pot);
    }
}
