// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, Lookup, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {ISettlement, Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData, BatchModel, Leaves} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

/// @notice Attacks on challengers and, by challengers, on validBook operators.
contract AttacksDisputesTest is Disputed {
    using BatchModel for *;

    // --- demand griefing ---

    /// @dev 64 leaves of every tree are demanded at the last moment: finality is not delayed, and the operator earns
    /// the attacker's bonds.
    function test_demand_griefing_delays_nothing_and_pays_the_operator() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        Demand[3] memory demands = _demandAll(batch);
        uint256 paid = usd.balanceOf(challenger);
        vm.assertEq(paid, 0);
        vm.warp(demands[0].deadline);
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = 0; j < 64; ++j) {
                Lookup memory lookup = batch.lookUp(demands[i].tree, demands[i].keys[j]);
                vm.prank(operator);
                disputes.answer(demands[i], j, batch.header, batch.parent, lookup);
            }
        }
        vm.assertEq(usd.balanceOf(operator), 3 * 64 * BOND);
        vm.assertEq(usd.balanceOf(address(disputes)), 0);
        vm.warp(batch.header.finalAt);
        finalise(batch.parent, batch.header);
    }

    /// @dev An attacker that answers its own demand only gets its bond back: it pays the gas of demand and answer,
    /// while the operator pays for a call that reverts early.
    function test_demand_griefing_by_answering_oneself_costs_the_griefer_more_gas() external {
        BatchData memory batch = committedBatch();
        bytes32 key = batch.entries.keys[7];
        fundChallenger(BOND);
        Demand memory demand_ = demandOf(batch, Tree.Entries, oneKey(key));
        bytes memory call = abi.encodeCall(
            IDisputes.answer,
            (demand_, 0, batch.header, batch.parent, batch.lookUp(Tree.Entries, key))
        );
        vm.prank(challenger);
        uint256 start = gasleft();
        disputes.demand(batch.header, Tree.Entries, oneKey(key));
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
        BatchData memory batch = committedBatch();
        uint64 until = batch.header.finalAt - 2 * PERIOD;
        vm.warp(until + bound(late, 1, 2 * PERIOD));
        fundChallenger(BOND);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.TooLateToDemand.selector, until));
        vm.prank(challenger);
        disputes.demand(batch.header, Tree.Entries, oneKey(0));
    }

    // --- last-second answer ---

    /// @dev Data revealed by an answer in the last second can still be used in a proof: a period remains.
    function test_a_last_second_answer_leaves_time_for_the_proof() external {
        BatchData memory batch = invalidBatch();
        bytes32 key = batch.balances.keys[0];
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        Demand memory demand_ = demand(batch, Tree.Balances, oneKey(key));
        vm.warp(demand_.deadline);
        vm.prank(operator);
        disputes.answer(demand_, 0, batch.header, batch.parent, batch.lookUp(Tree.Balances, key));
        vm.assertEq(demand_.deadline, batch.header.finalAt - PERIOD);
        vm.warp(batch.header.finalAt - 1);
        convict(batch, challenger);
        assertVoid(batch);
    }

    function test_a_last_second_answer_a_second_later_is_refused(uint64 late) external {
        BatchData memory batch = committedBatch();
        bytes32 key = batch.balances.keys[0];
        Demand memory demand_ = demand(batch, Tree.Balances, oneKey(key));
        vm.warp(demand_.deadline + bound(late, 1, type(uint32).max));
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AnswerTooLate.selector, demand_.deadline));
        disputes.answer(demand_, 0, batch.header, batch.parent, batch.lookUp(Tree.Balances, key));
        vm.warp(batch.header.finalAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.DemandsOpen.selector, demand_.batchHash, 1));
        finalise(batch.parent, batch.header);
        disputes.voidUnanswered(demand_, batch.header);
        assertVoid(batch);
    }

    // --- challenger front-run ---

    function test_a_challenger_front_run_with_a_reservation_earns_nothing() external {
        BatchData memory batch = invalidBatch();
        bytes memory proof = proofOf(batch);
        vm.prank(challenger);
        disputes.reserve(keccak256(abi.encode(challenger, keccak256(proof))));
        vm.roll(block.number + 1);
        // The copier sees the pending proof and can reserve it in this block at the earliest.
        address copier = accountOf("copier");
        vm.prank(copier);
        disputes.reserve(keccak256(abi.encode(copier, keccak256(proof))));
        convict(batch, copier);
        vm.assertEq(usd.balanceOf(copier), 0);
        vm.assertEq(usd.balanceOf(address(timelock)), _slashUnits(batch));
    }

    function test_a_challenger_with_a_reservation_earns_its_part() external {
        BatchData memory batch = invalidBatch();
        bytes memory proof = proofOf(batch);
        vm.prank(challenger);
        disputes.reserve(keccak256(abi.encode(challenger, keccak256(proof))));
        vm.roll(block.number + 1);
        uint256 slashed = _slashUnits(batch);
        expectConviction(batch, IDisputes.proveZeroLeaf.selector, challenger);
        convict(batch, challenger);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4);
        vm.assertEq(usd.balanceOf(address(timelock)), slashed - slashed / 4);
    }

    function test_a_challenger_front_run_without_reservations_rewards_no_account() external {
        BatchData memory batch = invalidBatch();
        uint256 slashed = _slashUnits(batch);
        convict(batch, accountOf("copier"));
        vm.assertEq(usd.balanceOf(accountOf("copier")), 0);
        vm.assertEq(usd.balanceOf(address(timelock)), slashed);
    }

    function test_a_challenger_front_run_at_its_reservation_is_not_stopped() external {
        BatchData memory batch = invalidBatch();
        bytes32 hash = keccak256(abi.encode(challenger, keccak256(proofOf(batch))));
        vm.prank(accountOf("copier"));
        disputes.reserve(hash);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AlreadyReserved.selector, hash));
        vm.prank(challenger);
        disputes.reserve(hash);
        // Regardless of who sent it, it names the challenger.
        vm.roll(block.number + 1);
        uint256 slashed = _slashUnits(batch);
        convict(batch, challenger);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4);
    }

    // --- self-accusation ---

    /// @dev Even with the highest reward that governance can set, an operator that accuses itself loses most of the
    /// slash.
    function test_self_accusation_loses_most_of_the_slash(uint32 challengerPpm, uint32 coverPpm) external {
        challengerPpm = uint32(bound(challengerPpm, 50_000, 490_000));
        coverPpm = uint32(bound(coverPpm, 50_000, 1_000_000));
        setDisputeTerms(challengerPpm, uint128(BOND) * MICRO);
        setStakeCover(coverPpm);
        BatchData memory batch = invalidBatch();
        uint256 slashed = _slashUnits(batch);
        address other = accountOf("the operator's other account");
        bytes memory proof = proofOf(batch);
        disputes.reserve(keccak256(abi.encode(other, keccak256(proof))));
        vm.roll(block.number + 1);
        convict(batch, other);
        uint256 back = usd.balanceOf(other);
        uint256 lost = STAKE_UNITS - operators.stakeOf(operator).stake / MICRO;
        vm.assertEq(lost, slashed);
        vm.assertLe(back * 100, lost * 49);
    }

    function test_self_accusation_by_not_answering_loses_most_of_the_slash_too() external {
        BatchData memory batch = committedBatch();
        uint256 slashed = _slashUnits(batch);
        Demand memory demand_ = demand(batch, Tree.Receipts, oneKey(0));
        vm.warp(demand_.deadline + 1);
        disputes.voidUnanswered(demand_, batch.header);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4);
        disputes.returnBond(demand_, batch.header);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4 + BOND);
        vm.assertEq(operators.stakeOf(operator).stake, (STAKE_UNITS - slashed) * MICRO);
    }

    // --- framing an validBook operator ---

    /// @dev Cross-contract replay: a receipt signed for another generation's settlement does not convict.
    function test_cross_contract_replay_of_a_receipt_is_no_equivocation() external {
        BatchData memory batch = committedBatch();
        ISettlement next = _deployGeneration().settlement();
        Receipt memory other = validBatch().served[0].receipt;
        other.responseHash = keccak256("another response");
        bytes memory signature = sign(keyOf("receipt key"), next.receiptDigest(other));
        ReceiptWitness memory witness = batch.witnessOf(0);
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        disputes.proveEquivocation(batch.header, witness.receipt, witness.opening, other, signature);
    }

    /// @dev Neither does one signed for another chain, nor a malleated signature.
    function test_cross_chain_replay_of_a_receipt_is_no_equivocation(uint64 chain) external {
        vm.assume(chain != block.chainid);
        BatchData memory batch = committedBatch();
        Receipt memory other = validBatch().served[0].receipt;
        other.responseHash = keccak256("another response");
        bytes32 digest = typedDigest(chain, address(settlement), Hashing.receipt(other));
        bytes memory signature = sign(keyOf("receipt key"), digest);
        ReceiptWitness memory witness = batch.witnessOf(0);
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        disputes.proveEquivocation(batch.header, witness.receipt, witness.opening, other, signature);
        signature = malleate(signReceipt(other));
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        disputes.proveEquivocation(batch.header, witness.receipt, witness.opening, other, signature);
    }

    // --- internal ---

    /// @dev 64 keys of each tree that can be demanded, with and without leaves.
    function _demandAll(BatchData memory batch) private returns (Demand[3] memory demands) {
        for (uint256 i = 0; i < 3; ++i) {
            Tree tree = Tree(i + 1);
            Leaves memory leaves = batch.leavesOf(tree);
            bytes32[] memory keys = new bytes32[](64);
            for (uint256 j = 0; j < 64; ++j) {
                keys[j] = bytes32(uint256(leaves.keys[j % leaves.keys.length]) + j / leaves.keys.length);
            }
            demands[i] = demand(batch, tree, keys);
        }
    }

    function _slashUnits(BatchData memory batch) private pure returns (uint256) {
        return batch.header.slashUpTo / MICRO;
    }
}
