// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract ReturnBondTest is Disputed {
    function test_bonds_of_leaves_that_a_void_left_open_are_credited(uint256 count, uint64 answered) external {
        BatchData memory batch = committedBatch();
        count = bound(count, 1, 64);
        demandMany(batch, Tree.Entries, absentKeys(count));
        for (uint256 i = 1; i <= count; ++i) {
            if ((answered >> (i - 1)) & 1 == 1) answer(batch, Tree.Entries, bytes32(i));
        }
        voidPending(batch.header);
        uint256 returned = 0;
        for (uint256 i = 1; i <= count; ++i) {
            if ((answered >> (i - 1)) & 1 == 1) continue;
            uint256 bond = demandOf(batch, Tree.Entries, bytes32(i)).bond;
            returned += bond;
            vm.expectEmit(address(disputes));
            emit IDisputes.BondReturned(leafOf(batch, Tree.Entries, bytes32(i)), challenger, bond);
            vm.prank(accountOf("anyone"));
            disputes.returnBond(batch.header, Tree.Entries, bytes32(i));
        }
        vm.assertEq(disputes.creditOf(challenger), returned);
        vm.assertEq(numOpen(batch), 0);
    }

    function test_a_bond_is_returned_whole_and_only_once() external {
        BatchData memory batch = committedBatch();
        uint256 bond = demand(batch, Tree.Entries, 0).bond;
        demand(batch, Tree.Balances, 0);
        vm.warp(block.timestamp + 30);
        disputes.voidUnanswered(batch.header, Tree.Balances, 0);
        disputes.returnBond(batch.header, Tree.Entries, 0);
        bytes32 leaf = leafOf(batch, Tree.Entries, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandClosed.selector, leaf));
        disputes.returnBond(batch.header, Tree.Entries, 0);
        vm.assertEq(disputes.creditOf(challenger), bond);
        vm.assertEq(numOpen(batch), 1);
    }

    function test_a_bond_is_not_returned_while_the_batch_is_pending(uint32 later) external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Entries, 0);
        vm.warp(block.timestamp + later);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BatchPending.selector, Hashing.batch(batch.header)));
        disputes.returnBond(batch.header, Tree.Entries, 0);
    }

    function test_nothing_is_returned_for_an_answered_leaf_of_a_final_batch() external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Entries, 0);
        answer(batch, Tree.Entries, 0);
        vm.warp(batch.header.finalAt);
        finalise(batch.parent, batch.header);
        bytes32 leaf = leafOf(batch, Tree.Entries, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandClosed.selector, leaf));
        disputes.returnBond(batch.header, Tree.Entries, 0);
    }

    function test_demands_on_the_other_pending_batches_return_too(bool isLater) external {
        BatchData memory batch = committedBatch();
        uint256 bond = demand(batch, Tree.Entries, 0).bond;
        voidPending(isLater ? batch.parent : commit(5 * MICRO, oneBalance(operator, 5 * MICRO)));
        disputes.returnBond(batch.header, Tree.Entries, 0);
        vm.assertEq(disputes.creditOf(challenger), bond);
    }

    function test_a_bond_is_returned_after_another_batch_took_the_number() external {
        finaliseFirst();
        BatchData memory batch = committedBatch();
        uint256 bond = demand(batch, Tree.Entries, 0).bond;
        voidPending(batch.header);
        settlement.refund(batch.header, batch.refunds);
        vm.warp(block.timestamp + 1);
        BatchData memory again = committedBatch();
        demand(again, Tree.Entries, 0);
        disputes.returnBond(batch.header, Tree.Entries, 0);
        vm.assertEq(disputes.creditOf(challenger), bond);
        // The new batch has a separate demand.
        vm.assertTrue(hasOpenDemand(again.header));
    }

    // --- credits ---

    function test_a_credit_is_withdrawn_to_any_account(uint96 amount, uint160 to) external {
        amount = uint96(bound(amount, 1, 1e6 ether));
        address payable receiver = payable(address(to | (1 << 80)));
        vm.assume(receiver.code.length == 0);
        _credit(amount);
        uint256 before = receiver.balance;
        vm.expectEmit(address(disputes));
        emit IDisputes.CreditWithdrawn(challenger, receiver, amount);
        vm.prank(challenger);
        vm.assertEq(disputes.withdrawCredit(receiver), amount);
        vm.assertEq(receiver.balance, before + amount);
        vm.assertEq(disputes.creditOf(challenger), 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NoCredit.selector, challenger));
        vm.prank(challenger);
        disputes.withdrawCredit(receiver);
    }

    /// @dev The receiver calls back while it is paid.
    function test_a_credit_is_withdrawn_once_even_by_reentry() external {
        Reentrant receiver = new Reentrant(disputes);
        vm.deal(address(disputes), 10 ether);
        challenger = address(receiver);
        vm.deal(challenger, 2 ether);
        _credit(1 ether);
        vm.prank(address(receiver));
        disputes.withdrawCredit(payable(address(receiver)));
        vm.assertEq(receiver.numRefused(), 1);
        vm.assertEq(address(receiver).balance, 2 ether);
    }

    function test_a_receiver_that_refuses_ether_keeps_its_credit() external {
        _credit(1 ether);
        vm.expectRevert();
        vm.prank(challenger);
        disputes.withdrawCredit(payable(address(usd)));
        vm.assertEq(disputes.creditOf(challenger), 1 ether);
    }

    /// @dev A value without leaves is credited whole.
    function _credit(uint256 amount) private {
        BatchData memory batch = firstBatch();
        vm.prank(challenger);
        disputes.demand{value: amount}(batch.header, Tree.Entries, new bytes32[](0));
    }
}

contract Reentrant {
    IDisputes private immutable _disputes;
    uint256 public numRefused;

    constructor(IDisputes disputes) {
        _disputes = disputes;
    }

    receive() external payable {
        try _disputes.withdrawCredit(payable(address(this))) {} catch {
            ++numRefused;
        }
    }
}
