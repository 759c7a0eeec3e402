// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IPaymentVault} from "../../contracts/interfaces/IPaymentVault.sol";
import {Payments} from "./support/Payments.sol";

contract PayOutTest is Payments {
    uint128 private constant _POT = 1_000 * MICRO;

    address private _to;

    function setUp() public override {
        super.setUp();
        _to = who("recipient");
        deposit(_POT / MICRO);
        collect(collection(keyOf("payer"), 0, _POT));
    }

    function test_a_pot_pays_what_leaves_its_floor(uint256 units, uint128 floor) external {
        units = bound(units, 1, 2 * (_POT / MICRO));
        floor = uint128(bound(floor, 0, 2 * _POT));
        uint128 amount = uint128(units) * MICRO;
        if (uint256(amount) + floor > _POT) {
            vm.expectRevert(abi.encodeWithSelector(IPaymentVault.PotBelowFloor.selector, _POT, amount, floor));
            vm.prank(collector);
            vault.payOut(operator, _to, units, floor);
            return;
        }
        vm.expectEmit(address(vault));
        emit IPaymentVault.PaidOut(collector, operator, _to, amount);
        vm.prank(collector);
        vault.payOut(operator, _to, units, floor);
        vm.assertEq(usd.balanceOf(_to), units);
        vm.assertEq(vault.potOf(collector, operator), _POT - amount);
    }

    function test_a_pot_is_its_collectors_and_operators_own() external {
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.PotBelowFloor.selector, 0, MICRO, 0));
        vm.prank(who("other collector"));
        vault.payOut(operator, _to, 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.PotBelowFloor.selector, 0, MICRO, 0));
        vm.prank(collector);
        vault.payOut(who("other operator"), _to, 1, 0);
    }

    function test_nobody_is_paid_nothing_and_the_vault_does_not_pay_itself() external {
        vm.startPrank(collector);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ZeroAmount.selector));
        vault.payOut(operator, _to, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidRecipient.selector, address(0)));
        vault.payOut(operator, address(0), 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidRecipient.selector, address(vault)));
        vault.payOut(operator, address(vault), 1, 0);
        vm.stopPrank();
    }
}
