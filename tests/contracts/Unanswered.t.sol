// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {Demand, IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Book, Books} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

contract UnansweredTest is Disputed {
    using Books for *;

    function test_an_unanswered_demand_voids_from_the_second_after_the_deadline(uint32 late, uint256 tree) external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree(tree % 4), oneKey(0));
        vm.warp(asked.deadline);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DeadlineNotPassed.selector, asked.deadline));
        disputes.voidUnanswered(asked, book.header);
        vm.warp(uint256(asked.deadline) + 1 + late);
        expectConviction(book, IDisputes.voidUnanswered.selector, challenger);
        disputes.voidUnanswered(asked, book.header);
        assertVoid(book);
    }

    /// @dev Any account may send it, without a reservation.
    function test_the_challengers_share_goes_to_the_demands_challenger(address sender) external {
        vm.assume(sender != challenger && sender != address(timelock) && sender != address(0));
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        vm.warp(asked.deadline + 1);
        uint256 units = vault.potOf(address(settlement), operator) / 4 / MICRO;
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.Slashed(
            operator,
            challenger,
            uint128(units / 4) * MICRO,
            address(timelock),
            uint128(units - units / 4) * MICRO
        );
        vm.prank(sender);
        disputes.voidUnanswered(asked, book.header);
        vm.assertEq(usd.balanceOf(challenger), units / 4);
    }

    function test_one_unanswered_key_of_64_is_enough(uint256 silent) external {
        Book memory book = committed();
        silent %= 64;
        Demand memory asked = demand(book, Tree.Entries, new bytes32[](64));
        Lookup memory lookup = book.look(Tree.Entries, 0);
        for (uint256 i = 0; i < 64; ++i) {
            if (i != silent) disputes.answer(asked, i, book.header, book.parent, lookup);
        }
        vm.assertEq(disputes.unansweredOf(idOf(asked)), 1 << silent);
        vm.warp(asked.deadline + 1);
        disputes.voidUnanswered(asked, book.header);
        assertVoid(book);
    }

    function test_an_answered_demand_voids_nothing() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        disputes.answer(asked, 0, book.header, book.parent, book.look(Tree.Entries, 0));
        vm.warp(asked.deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(asked)));
        disputes.voidUnanswered(asked, book.header);
        vm.assertTrue(settlement.isPending(book.header));
    }

    /// @dev An open demand holds the batch, so an unanswered one can be punished at any later time.
    function test_an_open_demand_outlasts_the_window() external {
        Book memory book = committed();
        vm.warp(book.header.finalAt - 2 * PERIOD);
        Demand memory asked = demand(book, Tree.Balances, oneKey(0));
        vm.warp(uint256(book.header.finalAt) + 1 days);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchHeld.selector, operator, 2));
        settlement.finalise(book.header);
        disputes.voidUnanswered(asked, book.header);
        assertVoid(book);
    }

    function test_a_demand_of_the_first_of_two_voids_both() external {
        Book memory book = first();
        Demand memory asked = demand(book, Tree.Balances, oneKey(0));
        committed();
        vm.warp(asked.deadline + 1);
        disputes.voidUnanswered(asked, book.header);
        vm.assertEq(settlement.stateOf(operator).last, 0);
        vm.assertEq(settlement.stateOf(operator).toRefund, 2);
    }

    function test_a_batch_is_convicted_only_once() external {
        Book memory book = committed();
        Demand memory one = demand(book, Tree.Balances, oneKey(0));
        Demand memory two = demand(book, Tree.Entries, oneKey(0));
        vm.warp(one.deadline + 1);
        disputes.voidUnanswered(one, book.header);
        bytes memory unknown = abi.encodeWithSelector(ISettlement.BatchUnknown.selector, Hashing.batch(book.header));
        vm.expectRevert(unknown);
        disputes.voidUnanswered(two, book.header);
    }

    function test_another_demand_or_batch_is_unknown(uint256 field) external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        vm.warp(asked.deadline + 1);
        Book memory other = first();
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, asked.batchHash, Hashing.batch(other.header)));
        disputes.voidUnanswered(asked, other.header);
        field %= 3;
        if (field == 0) asked.challenger = address(this);
        if (field == 1) asked.deadline -= 1;
        if (field == 2) asked.batchHash = Hashing.batch(other.header);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(asked)));
        disputes.voidUnanswered(asked, other.header);
    }
}
