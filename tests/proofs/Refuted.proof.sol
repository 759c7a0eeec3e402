// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ChannelMove, Collection, Refund, SessionGrant} from "../../contracts/interfaces/IPaymentVault.sol";
import {AnyVault} from "./AnyVault.sol";

/// @notice False claims about the vault, one for each function that moves amounts.
contract VaultRefuted is AnyVault {
    function refute_collect_pays_nothing(Collection calldata c, address operator, address collector) external {
        _begin(c.payer, operator, collector);
        uint256 pot = _books().pot;
        _collect(c);
        assert(_books().pot == pot);
    }

    function refute_only_the_payer_signs(Collection calldata c, address operator, address collector) external {
        _begin(c.payer, operator, collector);
        address signer = _signer(c);
        _collect(c);
        assert(signer == c.payer);
    }

    function refute_what_is_waived_is_paid(Collection calldata c, address operator, address collector) external {
        _begin(c.payer, operator, collector);
        uint256 pot = _books().pot;
        _collect(c);
        assert(_books().pot == pot + c.until - c.before);
    }

    function refute_refund_moves_nothing(Refund calldata r, address operator, address collector) external {
        _begin(r.payer, operator, collector);
        uint256 balance = _books().balance;
        _refund(r);
        assert(_books().balance == balance);
    }

    function refute_deposit_adds_nothing(address payer, address operator, address collector, uint256 units) external {
        _begin(payer, operator, collector);
        uint256 balance = _books().balance;
        SessionGrant memory none;
        vm.prank(payer);
        _vault.deposit(operator, collector, units, none);
        assert(_books().balance == balance);
    }

    function refute_withdraw_takes_all(address payer, address operator, address collector) external {
        _begin(payer, operator, collector);
        vm.prank(payer);
        _vault.withdraw(operator, collector);
        assert(_books().balance == 0);
    }

    function refute_pay_out_empties_the_pot(
        address operator,
        address collector,
        address to,
        uint256 units,
        uint128 limit
    ) external {
        _begin(to, operator, collector);
        vm.prank(collector);
        _vault.payOut(operator, to, units, limit);
        assert(_books().pot == 0);
    }

    function refute_move_moves_nothing(
        address payer,
        address operator,
        ChannelMove calldata move,
        uint128 amount,
        bytes calldata signature
    ) external {
        _begin(payer, operator, move.collector);
        uint256 balance = _booksUnder(move.newCollector).balance;
        vm.prank(operator);
        _vault.moveBalance(payer, move, amount, signature);
        assert(_booksUnder(move.newCollector).balance == balance);
    }

    /// @dev The counterpart of `check_nothing_else_moves_money`: those calls do change state.
    function refute_nothing_else_starts_a_thaw(address payer, address operator, address collector) external {
        _begin(payer, operator, collector);
        uint64 thawedAt = _vault.channelOf(_id()).thawedAt;
        bytes memory data = svm.createCalldata("PaymentVault");
        vm.assume(!_movesMoney(bytes4(data)));
        vm.prank(payer);
        (bool success, ) = address(_vault).call(data);
        vm.assume(success);
        assert(_vault.channelOf(_id()).thawedAt == thawedAt);
    }

    function refute_nothing_else_grants_a_session(
        address payer,
        address operator,
        address collector,
        address key
    ) external {
        _begin(payer, operator, collector);
        uint128 cap = _vault.sessionOf(_id(), key).cap;
        bytes memory data = svm.createCalldata("PaymentVault");
        vm.assume(!_movesMoney(bytes4(data)));
        vm.prank(payer);
        (bool success, ) = address(_vault).call(data);
        vm.assume(success);
        assert(_vault.sessionOf(_id(), key).cap == cap);
    }
}
