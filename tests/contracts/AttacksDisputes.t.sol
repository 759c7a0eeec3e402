// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {ISettlement, Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Book, Books, Leaves} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

/// @notice Attacks on challengers and, by challengers, on validBook operators.
contract AttacksDisputesTest is Disputed {
    using Books for *;

    // --- demand griefing ---

    /// @dev 64 leaves of every tree are demanded at the last moment: finality is not delayed, and the operator earns
    /// the attacker's bonds.
    function test_demand_griefing_delays_nothing_and_pays_the_operator() external {
        Book memory book = committed();
        vm.warp(book.header.finalAt - 2 * PERIOD);
        Demand[3] memory asked = _demandAll(book);
        uint256 paid = usd.balanceOf(challenger);
        vm.assertEq(paid, 0);
        vm.warp(asked[0].deadline);
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = 0; j < 64; ++j) {
                vm.prank(operator);
                disputes.answer(asked[i], j, book.header, book.parent, book.look(asked[i].tree, asked[i].keys[j]));
            }
        }
        vm.assertEq(usd.balanceOf(operator), 3 * 64 * BOND);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
        vm.warp(book.header.finalAt);
        settlement.finalise(book.header);
    }

    /// @dev An attacker that answers its own demand only gets its bond back: it pays the gas of demand and answer,
    /// while the operator pays for a call that reverts early.
    function test_demand_griefing_by_answering_oneself_costs_the_griefer_more_gas() external {
        Book memory book = committed();
        bytes32 key = book.entries.keys[7];
        fundChallenger(BOND);
        Demand memory asked = demandOf(book, Tree.Entries, oneKey(key));
        bytes memory call = abi.encodeCall(
            IDisputes.answer,
            (asked, 0, book.header, book.parent, book.look(Tree.Entries, key))
        );
        vm.prank(challenger);
        uint256 start = gasleft();
        disputes.demand(book.header, Tree.Entries, oneKey(key));
        vm.prank(challenger);
        (bool isDone, ) = address(disputes).call(call);
        uint256 spent = start - gasleft();
        vm.assertTrue(isDone);
        vm.prank(operator);
        start = gasleft();
        (isDone, ) = address(disputes).call(call);
        vm.assertFalse(isDone);
        vm.assertLe(3 * (start - gasleft()), spent);
        vm.assertEq(usd.balanceOf(challenger), BOND);
    }

    function test_demand_griefing_too_late_to_be_answered_is_refused(uint64 late) external {
        Book memory book = committed();
        uint64 until = book.header.finalAt - 2 * PERIOD;
        vm.warp(until + bound(late, 1, 2 * PERIOD));
        fundChallenger(BOND);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.TooLateToDemand.selector, until));
        vm.prank(challenger);
        disputes.demand(book.header, Tree.Entries, oneKey(0));
    }

    // --- last-second answer ---

    /// @dev Data revealed by an answer in the last second can still be used in a proof: a period remains.
    function test_a_last_second_answer_leaves_time_for_the_proof() external {
        Book memory book = wrong();
        bytes32 key = book.balances.keys[0];
        vm.warp(book.header.finalAt - 2 * PERIOD);
        Demand memory asked = demand(book, Tree.Balances, oneKey(key));
        vm.warp(asked.deadline);
        vm.prank(operator);
        disputes.answer(asked, 0, book.header, book.parent, book.look(Tree.Balances, key));
        vm.assertEq(asked.deadline, book.header.finalAt - PERIOD);
        vm.warp(book.header.finalAt - 1);
        convict(book, challenger);
        assertVoid(book);
    }

    function test_a_last_second_answer_a_second_later_is_refused(uint64 late) external {
        Book memory book = committed();
        bytes32 key = book.balances.keys[0];
        Demand memory asked = demand(book, Tree.Balances, oneKey(key));
        vm.warp(asked.deadline + bound(late, 1, type(uint32).max));
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AnswerTooLate.selector, asked.deadline));
        disputes.answer(asked, 0, book.header, book.parent, book.look(Tree.Balances, key));
        vm.warp(book.header.finalAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BatchHeld.selector, operator, book.header.number));
        settlement.finalise(book.header);
        disputes.voidUnanswered(asked, book.header);
        assertVoid(book);
    }

    // --- challenger front-run ---

    function test_a_challenger_front_run_with_a_reservation_earns_nothing() external {
        Book memory book = wrong();
        bytes memory proof = proofOf(book);
        vm.prank(challenger);
        disputes.reserve(keccak256(abi.encode(challenger, keccak256(proof))));
        vm.roll(block.number + 1);
        // The copier sees the pending proof and can reserve it in this block at the earliest.
        address copier = who("copier");
        vm.prank(copier);
        disputes.reserve(keccak256(abi.encode(copier, keccak256(proof))));
        convict(book, copier);
        vm.assertEq(usd.balanceOf(copier), 0);
        vm.assertEq(usd.balanceOf(address(timelock)), _slashUnits(book));
    }

    function test_a_challenger_with_a_reservation_earns_its_part() external {
        Book memory book = wrong();
        bytes memory proof = proofOf(book);
        vm.prank(challenger);
        disputes.reserve(keccak256(abi.encode(challenger, keccak256(proof))));
        vm.roll(block.number + 1);
        uint256 slashed = _slashUnits(book);
        expectConviction(book, IDisputes.proveZeroLeaf.selector, challenger);
        convict(book, challenger);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4);
        vm.assertEq(usd.balanceOf(address(timelock)), slashed - slashed / 4);
    }

    function test_a_challenger_front_run_without_reservations_rewards_no_account() external {
        Book memory book = wrong();
        uint256 slashed = _slashUnits(book);
        convict(book, who("copier"));
        vm.assertEq(usd.balanceOf(who("copier")), 0);
        vm.assertEq(usd.balanceOf(address(timelock)), slashed);
    }

    function test_a_challenger_front_run_at_its_reservation_is_not_stopped() external {
        Book memory book = wrong();
        bytes32 hash = keccak256(abi.encode(challenger, keccak256(proofOf(book))));
        vm.prank(who("copier"));
        disputes.reserve(hash);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AlreadyReserved.selector, hash));
        vm.prank(challenger);
        disputes.reserve(hash);
        // Regardless of who sent it, it names the challenger.
        vm.roll(block.number + 1);
        uint256 slashed = _slashUnits(book);
        convict(book, challenger);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4);
    }

    // --- self-accusation ---

    /// @dev Even with the highest reward that governance can set, an operator that accuses itself loses most of the
    /// slash.
    function test_self_accusation_loses_most_of_the_slash(uint32 challengerPpm, uint32 coverPpm) external {
        challengerPpm = uint32(bound(challengerPpm, 50_000, 490_000));
        coverPpm = uint32(bound(coverPpm, 50_000, 1_000_000));
        vm.startPrank(address(timelock));
        parameters.setDisputeTerms(challengerPpm, uint128(BOND) * MICRO);
        parameters.setStakeCover(coverPpm);
        vm.stopPrank();
        Book memory book = wrong();
        uint256 slashed = (uint256(vault.potOf(collector, operator)) * coverPpm) / 1e12;
        address other = who("the operator's other account");
        bytes memory proof = proofOf(book);
        disputes.reserve(keccak256(abi.encode(other, keccak256(proof))));
        vm.roll(block.number + 1);
        convict(book, other);
        uint256 back = usd.balanceOf(other);
        uint256 lost = STAKE_UNITS - operators.stakeOf(operator).stake / MICRO;
        vm.assertEq(lost, slashed);
        vm.assertLe(back * 100, lost * 49);
    }

    function test_self_accusation_by_not_answering_loses_most_of_the_slash_too() external {
        Book memory book = committed();
        uint256 slashed = _slashUnits(book);
        Demand memory asked = demand(book, Tree.Receipts, oneKey(0));
        vm.warp(asked.deadline + 1);
        disputes.voidUnanswered(asked, book.header);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4);
        disputes.returnBond(asked, book.header);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4 + BOND);
        vm.assertEq(operators.stakeOf(operator).stake, (STAKE_UNITS - slashed) * MICRO);
    }

    // --- framing an validBook operator ---

    /// @dev Cross-contract replay: a receipt signed for another generation's settlement does not convict.
    function test_cross_contract_replay_of_a_receipt_is_no_equivocation() external {
        Book memory book = committed();
        ISettlement next = _deployGeneration(UNSTAKE).settlement();
        Receipt memory other = validBook().served[0].receipt;
        other.responseHash = keccak256("another response");
        bytes memory signature = sign(keyOf("receipt key"), next.receiptDigest(other));
        ReceiptWitness memory witness = book.witnessOf(0);
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        disputes.proveEquivocation(book.header, witness.receipt, witness.opening, other, signature);
    }

    /// @dev Neither does one signed for another chain, nor a malleated signature.
    function test_cross_chain_replay_of_a_receipt_is_no_equivocation(uint64 chain) external {
        vm.assume(chain != block.chainid);
        Book memory book = committed();
        Receipt memory other = validBook().served[0].receipt;
        other.responseHash = keccak256("another response");
        bytes32 digest = typedDigest(chain, address(settlement), Hashing.receipt(other));
        bytes memory signature = sign(keyOf("receipt key"), digest);
        ReceiptWitness memory witness = book.witnessOf(0);
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        disputes.proveEquivocation(book.header, witness.receipt, witness.opening, other, signature);
        signature = malleate(signed(other));
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        disputes.proveEquivocation(book.header, witness.receipt, witness.opening, other, signature);
    }

    // --- internal ---

    /// @dev 64 keys of each tree that can be demanded, with and without leaves.
    function _demandAll(Book memory book) private returns (Demand[3] memory asked) {
        for (uint256 i = 0; i < 3; ++i) {
            Tree tree = Tree(i + 1);
            Leaves memory leaves = book.leavesOf(tree);
            bytes32[] memory keys = new bytes32[](64);
            for (uint256 j = 0; j < 64; ++j) {
                keys[j] = bytes32(uint256(leaves.keys[j % leaves.keys.length]) + j / leaves.keys.length);
            }
            asked[i] = demand(book, tree, keys);
        }
    }

    function _slashUnits(Book memory book) private view returns (uint256) {
        uint256 coverPpm = parameters.setAt(book.header.parameterSet).stakeCoverPpm;
        return (uint256(vault.potOf(collector, operator)) * coverPpm) / 1e12;
    }
}
