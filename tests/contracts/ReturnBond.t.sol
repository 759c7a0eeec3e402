// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, Lookup, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Book, Books} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

contract ReturnBondTest is Disputed {
    using Books for *;

    function test_bonds_of_keys_that_a_void_left_unanswered_are_returned(uint256 count, uint64 answered) external {
        Book memory book = committed();
        count = bound(count, 1, 64);
        Demand memory asked = demand(book, Tree.Entries, new bytes32[](count));
        Lookup memory lookup = book.look(Tree.Entries, 0);
        uint256 left = 0;
        for (uint256 i = 0; i < count; ++i) {
            // The last one stays open.
            bool isAnswered = (answered >> i) & 1 == 1 && i + 1 != count;
            if (isAnswered) disputes.answer(asked, i, book.header, book.parent, lookup);
            else ++left;
        }
        voidFrom(book.header);
        vm.expectEmit(address(disputes));
        emit IDisputes.BondReturned(idOf(asked), challenger, left * BOND);
        vm.prank(who("anyone"));
        disputes.returnBond(asked, book.header);
        vm.assertEq(usd.balanceOf(challenger), left * BOND);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
        vm.assertEq(disputes.unansweredOf(idOf(asked)), 0);
        vm.assertEq(disputes.numOpenDemands(asked.batchHash), 0);
    }

    function test_a_bond_is_returned_along_with_the_challengers_share() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        vm.warp(asked.deadline + 1);
        disputes.voidUnanswered(asked, book.header);
        uint256 reward = usd.balanceOf(challenger);
        disputes.returnBond(asked, book.header);
        vm.assertEq(usd.balanceOf(challenger), reward + BOND);
    }

    function test_a_bond_is_returned_only_once() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        demand(book, Tree.Balances, oneKey(0));
        voidFrom(book.header);
        disputes.returnBond(asked, book.header);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(asked)));
        disputes.returnBond(asked, book.header);
        vm.assertEq(usd.balanceOf(address(disputes)), BOND);
        vm.assertEq(disputes.numOpenDemands(asked.batchHash), 1);
    }

    function test_a_bond_is_not_returned_while_the_batch_is_pending(uint32 later) external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        vm.warp(block.timestamp + later);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BatchPending.selector, asked.batchHash));
        disputes.returnBond(asked, book.header);
    }

    function test_demands_of_a_later_batch_return_too() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        voidFrom(book.parent);
        disputes.returnBond(asked, book.header);
        vm.assertEq(usd.balanceOf(challenger), BOND);
    }

    function test_a_bond_is_returned_after_another_batch_took_the_number() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        voidFrom(book.header);
        settlement.refund(book.header, book.refunds);
        vm.warp(block.timestamp + 1);
        Book memory again = committed();
        Demand memory other = demand(again, Tree.Entries, oneKey(0));
        disputes.returnBond(asked, book.header);
        vm.assertEq(usd.balanceOf(challenger), BOND);
        // The new batch has a separate demand.
        vm.assertTrue(settlement.isHeld(operator, 2));
        vm.assertEq(disputes.unansweredOf(idOf(other)), 1);
    }

    function test_an_altered_demand_returns_nothing() external {
        Book memory book = committed();
        Demand memory asked = demand(book, Tree.Entries, oneKey(0));
        voidFrom(book.header);
        asked.challenger = address(this);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.DemandUnknown.selector, idOf(asked)));
        disputes.returnBond(asked, book.header);
        asked.challenger = challenger;
        bytes4 selector = IDisputes.HeaderMismatch.selector;
        bytes32 found = Hashing.batch(book.parent);
        vm.expectRevert(abi.encodeWithSelector(selector, asked.batchHash, found));
        disputes.returnBond(asked, book.parent);
    }
}
