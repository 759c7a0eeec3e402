// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {OperatorRegistry} from "../../contracts/OperatorRegistry.sol";
import {PaymentVault} from "../../contracts/PaymentVault.sol";
import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {IPaymentVault} from "../../contracts/interfaces/IPaymentVault.sol";
import {ExactTransfer} from "../../contracts/libraries/ExactTransfer.sol";
import {Payments} from "./support/Payments.sol";
import {BlockingToken, ChargingToken, SixDecimals} from "./support/Tokens.sol";

/// @notice A token that calls its recipients, as tokens with hooks do.
contract HookToken is SixDecimals("Hook") {
    mapping(address account => bool) private _isListening;

    function listen() external {
        _isListening[msg.sender] = true;
    }

    function mint(address account, uint256 units) external {
        _mint(account, units);
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        _tell(from);
        _tell(to);
    }

    function _tell(address account) private {
        if (_isListening[account]) Robber(account).moved();
    }
}

/// @notice A recipient that repeats its legitimate call from within the callback of a transfer.
contract Robber {
    address private _target;
    bytes private _data;
    bytes public refusal;
    bool public hasCalled;
    bool public isRefusing;

    function arm(address target, bytes calldata data) external {
        (_target, _data) = (target, data);
    }

    function refuse() external {
        isRefusing = true;
    }

    function moved() external {
        require(!isRefusing);
        if (_target == address(0)) return;
        address target = _target;
        _target = address(0);
        hasCalled = true;
        bool isDone;
        (isDone, refusal) = target.call(_data);
    }

    function act(address target, bytes calldata data) external returns (bytes memory result) {
        bool isDone;
        (isDone, result) = target.call(data);
        require(isDone);
    }
}

/// @notice Attacks by and through the payment token. The vault makes no other external calls, so only a token with
/// hooks allows reentrancy.
contract AttacksTokenTest is Payments {
    uint256 private constant _UNITS = 5;

    HookToken private _token;
    PaymentVault private _vault;
    Robber private _robber;

    function setUp() public override {
        super.setUp();
        _token = new HookToken();
        _vault = new PaymentVault(_token, THAW);
        _robber = new Robber();
        payer = address(_robber);
        _token.mint(payer, 3 * _UNITS);
        _robber.act(address(_token), abi.encodeCall(_token.listen, ()));
        _robber.act(address(_token), abi.encodeCall(_token.approve, (address(_vault), 3 * _UNITS)));
        _token.mint(address(this), 100);
        _token.approve(address(_vault), 100);
    }

    function test_reentrancy_through_the_token_withdraws_nothing_twice() external {
        _depositAndThaw();
        _robber.arm(address(_vault), abi.encodeCall(IPaymentVault.withdraw, (operator, collector)));
        _robber.act(address(_vault), abi.encodeCall(IPaymentVault.withdraw, (operator, collector)));
        _checkRefused();
        vm.assertEq(_token.balanceOf(payer), 3 * _UNITS);
    }

    function test_reentrancy_through_the_token_credits_no_deposit_twice() external {
        _robber.arm(address(_vault), _depositCall());
        _robber.act(address(_vault), _depositCall());
        _checkRefused();
        vm.assertEq(_token.balanceOf(address(_vault)), _UNITS);
        vm.assertEq(_vault.channelOf(channel()).balance, _UNITS * MICRO);
    }

    /// @dev A direct transfer during a deposit would count twice if the balance change were not checked exactly.
    function test_reentrancy_through_the_token_by_a_gift_within_a_deposit_is_refused() external {
        _robber.arm(address(_token), abi.encodeCall(_token.transfer, (address(_vault), 1)));
        vm.expectRevert();
        _robber.act(address(_vault), _depositCall());
        vm.assertEq(_vault.channelOf(channel()).balance, 0);
    }

    /// @dev A recipient that refuses payments blocks only its own money.
    function test_a_callback_that_traps_funds_traps_its_own_only() external {
        _depositAndThaw();
        _vault.deposit(operator, collector, _UNITS, noGrant());
        _vault.thaw(operator, collector, uint128(_UNITS) * MICRO);
        vm.warp(block.timestamp + THAW);
        _robber.refuse();
        vm.expectRevert();
        _robber.act(address(_vault), abi.encodeCall(IPaymentVault.withdraw, (operator, collector)));
        _vault.withdraw(operator, collector);
        vm.assertEq(_token.balanceOf(address(this)), 100);
        vm.assertEq(_vault.channelOf(channel()).balance, _UNITS * MICRO);
    }

    /// @dev A challenger or treasury that cannot be paid does not prevent a slash.
    function test_a_callback_that_traps_funds_stops_no_slash(bool isTreasury) external {
        BlockingToken blocking = new BlockingToken();
        OperatorRegistry registry = new OperatorRegistry(blocking, address(settlement));
        blocking.mint(operator, 100);
        vm.startPrank(operator);
        blocking.approve(address(registry), 100);
        registry.stake(100);
        vm.stopPrank();
        (address challenger, address treasury) = (accountOf("challenger"), accountOf("treasury"));
        blocking.setBlocked(isTreasury ? treasury : challenger, true);
        vm.prank(address(settlement));
        registry.slash(operator, 40 * MICRO, challenger, 250_000, treasury);
        vm.assertEq(registry.stakeOf(operator).stake, 60 * MICRO);
        vm.assertEq(registry.owed(isTreasury ? treasury : challenger), (isTreasury ? 30 : 10) * MICRO);
        blocking.setBlocked(isTreasury ? treasury : challenger, false);
        address payee = isTreasury ? treasury : challenger;
        vm.prank(payee);
        registry.withdrawOwed(payee);
        vm.assertEq(blocking.balanceOf(challenger), 10);
        vm.assertEq(blocking.balanceOf(treasury), 30);
    }

    function test_a_fee_on_transfer_token_credits_nothing(uint64 units) external {
        units = uint64(bound(units, 1, type(uint64).max));
        ChargingToken charging = new ChargingToken();
        PaymentVault other = new PaymentVault(charging, THAW);
        OperatorRegistry registry = new OperatorRegistry(charging, address(settlement));
        charging.mint(address(this), 2 * uint256(units));
        charging.approve(address(other), units);
        charging.approve(address(registry), units);
        vm.expectRevert(abi.encodeWithSelector(ExactTransfer.UnexpectedTransfer.selector, units, units - 1));
        other.deposit(operator, collector, units, noGrant());
        vm.expectRevert(abi.encodeWithSelector(ExactTransfer.UnexpectedTransfer.selector, units, units - 1));
        registry.stake(units);
    }

    // --- internal ---

    function _depositCall() private view returns (bytes memory) {
        return abi.encodeCall(IPaymentVault.deposit, (operator, collector, _UNITS, noGrant()));
    }

    /// @dev The vault holds twice the thief's deposit, of which the thief may withdraw half.
    function _depositAndThaw() private {
        _robber.act(address(_vault), _depositCall());
        bytes memory call = abi.encodeCall(IPaymentVault.thaw, (operator, collector, uint128(_UNITS) * MICRO));
        _robber.act(address(_vault), call);
        vm.warp(block.timestamp + THAW);
    }

    function _checkRefused() private view {
        vm.assertTrue(_robber.hasCalled());
        bytes4 expected = ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector;
        vm.assertEq(bytes32(bytes4(_robber.refusal())), bytes32(expected));
    }
}
