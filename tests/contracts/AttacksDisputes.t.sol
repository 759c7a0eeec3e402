// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Demand, IDisputes, Lookup, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {ISettlement, Receipt} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {BatchData, BatchModel} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

/// @notice Attacks on challengers and, by challengers, on honest operators.
contract AttacksDisputesTest is Disputed {
    using BatchModel for *;

    // --- flood of demands ---

    /// @dev An outsider demands everything that it can at the last moment. The operator answers one leaf after the other
    /// at the pace for which the deadlines allow, is paid three times the gas of the worst answer, and is not convicted.
    function test_finding1_a_flood_of_demands_does_not_convict_and_pays_the_operator() external {
        BatchData memory batch = committedBatch();
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        (Tree[] memory trees, bytes32[] memory keys) = _demandAll(batch);
        uint256 answered = 0;
        for (uint256 i = 0; i < keys.length; ++i) {
            if (i >= 40 && i % 40 == 0) vm.warp(block.timestamp + PER_ANSWER);
            vm.assertLe(block.timestamp, demandOf(batch, trees[i], keys[i]).deadline);
            if (trees[i] == Tree.Receipts) answerReceipt(batch, uint256(keys[i]));
            else answer(batch, trees[i], keys[i]);
            answered += trees[i] == Tree.Receipts ? 800_000 : 240_000;
        }
        vm.assertLe(3 * answered * BASE_FEE, disputes.creditOf(operator));
        vm.warp(finalityOf(batch));
        vm.assertLe(block.timestamp, batch.header.finalAt + EXTENSION);
        finalise(batch.parent, batch.header);
    }

    /// @dev Each leaf in the queue is dearer than the one before, so that a flood costs its square.
    function test_finding1_a_flood_costs_its_square(uint256 count) external {
        BatchData memory batch = committedBatch();
        count = bound(count, 64, 1e6);
        uint256 one = bondsOf(Tree.Receipts, 1);
        uint256 flood = bondsOf(Tree.Receipts, count);
        vm.assertLe((one * count * count) / 128, flood);
    }

    /// @dev An operator that answers what it demanded of itself loses a quarter of the bonds.
    function test_finding1_an_operator_that_fills_its_own_queue_pays_for_it() external {
        BatchData memory batch = committedBatch();
        challenger = operator;
        vm.deal(operator, 1e6 ether);
        uint256 bonds = bondsOf(Tree.Entries, 64);
        demandMany(batch, Tree.Entries, absentKeys(64));
        for (uint256 i = 1; i <= 64; ++i) {
            answer(batch, Tree.Entries, bytes32(i));
        }
        uint256 credit = disputes.creditOf(operator);
        vm.assertLe(credit, bonds - bonds / 4 + 64);
    }

    /// @dev It delays its answer by its own queue, but its challenger still has a second round of demands and a proof:
    /// finality moves with the answer.
    function test_finding1_an_operator_that_fills_its_own_queue_takes_no_time_from_its_challenger(uint8 own) external {
        BatchData memory batch = invalidBatch();
        // The latest time at which two rounds and a proof fit without a queue.
        vm.warp(batch.header.finalAt - 3 * PERIOD);
        address honest = challenger;
        challenger = operator;
        vm.deal(operator, 1e6 ether);
        demandMany(batch, Tree.Entries, absentKeys(own));
        challenger = honest;
        bytes32 key = batch.entries.keys[0];
        uint64 deadline = demand(batch, Tree.Entries, key).deadline;
        vm.warp(deadline);
        answer(batch, Tree.Entries, key);
        Demand memory second = demand(batch, Tree.Balances, 0);
        vm.assertLe(block.timestamp + PERIOD, second.deadline);
        vm.warp(second.deadline);
        answer(batch, Tree.Balances, 0);
        vm.warp(block.timestamp + PERIOD - 1);
        vm.assertTrue(block.timestamp < finalityOf(batch));
        convict(batch, challenger);
        assertVoid(batch);
    }

    /// @dev However many demands follow each other, finality is not delayed beyond the bound.
    function test_finding1_demands_delay_finality_by_no_more_than_the_bound(uint256 seed) external {
        BatchData memory batch = committedBatch();
        for (uint256 i = 1; i < 40; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (block.timestamp + 2 * PERIOD > endOfDemandsOn(batch)) break;
            challenger = accountOf("another challenger");
            vm.deal(challenger, 1e6 ether);
            Demand memory last = demand(batch, Tree.Entries, bytes32(i));
            vm.assertLe(block.timestamp + PERIOD, last.deadline);
            vm.assertLe(last.deadline + PERIOD, finalityOf(batch));
            vm.assertLe(finalityOf(batch), batch.header.finalAt + EXTENSION);
            if (seed % 4 == 0) answer(batch, Tree.Entries, bytes32(i));
            vm.warp(block.timestamp + ((seed >> 8) % 6));
        }
    }

    /// @dev A griefer that answers its own demand first pays its bond to the operator, more than the operator's revert
    /// costs.
    function test_finding1_answering_oneself_pays_the_operator() external {
        BatchData memory batch = committedBatch();
        bytes32 key = batch.entries.keys[7];
        uint256 bond = demand(batch, Tree.Entries, key).bond;
        Lookup memory lookup = batch.lookUp(Tree.Entries, key);
        vm.prank(challenger);
        disputes.answer(batch.header, Tree.Entries, key, batch.parent, lookup);
        bytes memory call = abi.encodeCall(IDisputes.answer, (batch.header, Tree.Entries, key, batch.parent, lookup));
        vm.prank(operator);
        uint256 start = gasleft();
        (bool isDone, ) = address(disputes).call(call);
        uint256 wasted = start - gasleft() + 21_000 + 40 * call.length;
        vm.assertFalse(isDone);
        vm.assertLe(3 * wasted * BASE_FEE, disputes.creditOf(operator));
        vm.assertEq(disputes.creditOf(operator), bond - bond / 4);
        vm.assertEq(disputes.creditOf(challenger), 0);
    }

    /// @dev The base fee of the demand's block may be low; the floor of the profile still pays for the answer.
    function test_finding1_a_demand_at_a_base_fee_of_zero_is_not_free() external {
        BatchData memory batch = committedBatch();
        vm.fee(0);
        demand(batch, Tree.Receipts, 0);
        answerReceipt(batch, 0);
        vm.assertEq(disputes.creditOf(operator), 2_400_000 gwei);
    }

    // --- tokens ---

    /// @dev USDC can be paused, and can block an account. Answers and returns of bonds move no token.
    function test_finding6_a_paused_token_convicts_no_right_batch() external {
        BatchData memory batch = committedBatch();
        demand(batch, Tree.Receipts, bytes32(uint256(3)));
        demand(batch, Tree.Entries, 0);
        vm.mockCallRevert(address(usd), abi.encodeWithSelector(IERC20.transfer.selector), "Pausable: paused");
        vm.mockCallRevert(address(usd), abi.encodeWithSelector(IERC20.transferFrom.selector), "Pausable: paused");
        answerReceipt(batch, 3);
        answer(batch, Tree.Entries, 0);
        demand(batch, Tree.Balances, 0);
        answer(batch, Tree.Balances, 0);
        vm.prank(operator);
        disputes.withdrawCredit(payable(operator));
        vm.warp(finalityOf(batch));
        finalise(batch.parent, batch.header);
    }

    function test_finding6_a_paused_token_stops_no_conviction() external {
        BatchData memory batch = committedBatch();
        uint64 deadline = demand(batch, Tree.Entries, 0).deadline;
        vm.mockCallRevert(address(usd), abi.encodeWithSelector(IERC20.transfer.selector), "Pausable: paused");
        vm.warp(deadline + 1);
        disputes.voidUnanswered(batch.header, Tree.Entries, 0);
        disputes.returnBond(batch.header, Tree.Entries, 0);
        assertVoid(batch);
        vm.assertTrue(operators.owed(challenger) != 0);
    }

    // --- last-second answer ---

    /// @dev Data revealed by an answer in the last second can still be used in a proof: a period remains.
    function test_a_last_second_answer_leaves_time_for_the_proof() external {
        BatchData memory batch = invalidBatch();
        bytes32 key = batch.balances.keys[0];
        vm.warp(batch.header.finalAt - 2 * PERIOD);
        uint64 deadline = demand(batch, Tree.Balances, key).deadline;
        vm.warp(deadline);
        answer(batch, Tree.Balances, key);
        vm.assertEq(deadline, batch.header.finalAt - PERIOD);
        vm.warp(batch.header.finalAt - 1);
        vm.expectRevert();
        finalise(batch.parent, batch.header);
        convict(batch, challenger);
        assertVoid(batch);
    }

    function test_a_last_second_answer_a_second_later_is_refused(uint64 late) external {
        BatchData memory batch = committedBatch();
        bytes32 key = batch.balances.keys[0];
        uint64 deadline = demand(batch, Tree.Balances, key).deadline;
        vm.warp(deadline + bound(late, 1, type(uint32).max));
        Lookup memory lookup = batch.lookUp(Tree.Balances, key);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AnswerTooLate.selector, deadline, 0));
        disputes.answer(batch.header, Tree.Balances, key, batch.parent, lookup);
        vm.warp(batch.header.finalAt);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.DemandsOpen.selector, Hashing.batch(batch.header), 1));
        finalise(batch.parent, batch.header);
        disputes.voidUnanswered(batch.header, Tree.Balances, key);
        assertVoid(batch);
    }

    // --- challenger front-run ---

    function test_a_copy_of_a_pending_proof_neither_earns_nor_convicts() external {
        BatchData memory batch = invalidBatch();
        bytes memory proof = proofOf(batch);
        disputes.reserve(keccak256(abi.encode(challenger, keccak256(proof))));
        vm.roll(block.number + 1);
        // The copier sees the pending proof and can reserve it in this block at the earliest.
        address copier = accountOf("copier");
        disputes.reserve(keccak256(abi.encode(copier, keccak256(proof))));
        vm.prank(copier);
        (bool isHeld, ) = address(disputes).call(proof);
        vm.assertFalse(isHeld);
        uint256 slashed = _slashUnits(batch);
        expectConviction(batch, IDisputes.proveZeroLeaf.selector, challenger);
        vm.prank(challenger);
        (isHeld, ) = address(disputes).call(proof);
        vm.assertTrue(isHeld);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4);
        vm.assertEq(usd.balanceOf(address(timelock)), slashed - slashed / 4);
    }

    /// @dev Regardless of who reserves a hash first, it names the challenger.
    function test_a_challenger_front_run_at_its_reservation_is_not_stopped() external {
        BatchData memory batch = invalidBatch();
        bytes32 hash = keccak256(abi.encode(challenger, keccak256(proofOf(batch))));
        vm.prank(accountOf("copier"));
        disputes.reserve(hash);
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
        setChallengerShare(challengerPpm);
        setStakeCover(coverPpm);
        BatchData memory batch = invalidBatch();
        uint256 slashed = _slashUnits(batch);
        address other = accountOf("the operator's other account");
        convict(batch, other);
        uint256 back = usd.balanceOf(other);
        uint256 lost = STAKE_UNITS - operators.stakeOf(operator).stake / MICRO;
        vm.assertEq(lost, slashed);
        vm.assertLe(back * 100, lost * 49);
    }

    function test_self_accusation_by_not_answering_loses_most_of_the_slash_too() external {
        BatchData memory batch = committedBatch();
        uint256 slashed = _slashUnits(batch);
        Demand memory demand_ = demand(batch, Tree.Receipts, 0);
        vm.warp(demand_.deadline + 1);
        disputes.voidUnanswered(batch.header, Tree.Receipts, 0);
        vm.assertEq(usd.balanceOf(challenger), slashed / 4);
        disputes.returnBond(batch.header, Tree.Receipts, 0);
        vm.assertEq(disputes.creditOf(challenger), demand_.bond);
        vm.assertEq(operators.stakeOf(operator).stake, (STAKE_UNITS - slashed) * MICRO);
    }

    // --- framing an honest operator ---

    /// @dev Cross-contract replay: a receipt signed for another generation's settlement does not convict.
    function test_cross_contract_replay_of_a_receipt_is_no_equivocation() external {
        BatchData memory batch = committedBatch();
        ISettlement next = _deployGeneration().settlement();
        Receipt memory other = validBatch().served[0].receipt;
        other.responseHash = keccak256("another response");
        bytes memory signature = sign(keyOf("receipt key"), next.receiptDigest(other));
        ReceiptWitness memory witness = batch.witnessOf(0);
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        prover.proveEquivocation(batch.header, witness.receipt, witness.opening, other, signature);
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
        prover.proveEquivocation(batch.header, witness.receipt, witness.opening, other, signature);
        signature = malleate(signReceipt(other));
        vm.expectPartialRevert(IDisputes.NotSignedBy.selector);
        prover.proveEquivocation(batch.header, witness.receipt, witness.opening, other, signature);
    }

    // --- internal ---

    /// @dev All receipts, and 64 keys of each other tree.
    function _demandAll(BatchData memory batch) private returns (Tree[] memory trees, bytes32[] memory keys) {
        uint256 numReceipts = batch.header.receiptsCount;
        (trees, keys) = (new Tree[](numReceipts + 3 * 64), new bytes32[](numReceipts + 3 * 64));
        uint256 n = 0;
        for (uint256 i = 0; i < numReceipts; ++i) (trees[n], keys[n++]) = (Tree.Receipts, bytes32(i));
        for (uint256 tree = 1; tree < 4; ++tree) {
            bytes32[] memory existing = batch.leavesOf(Tree(tree)).keys;
            for (uint256 j = 0; j < 64; ++j) {
                bytes32 key = bytes32(uint256(existing[j % existing.length]) + j / existing.length);
                (trees[n], keys[n++]) = (Tree(tree), key);
            }
        }
        for (uint256 i = 0; i < n; ++i) {
            uint256 bond = bondsOf(trees[i], 1);
            vm.prank(challenger);
            vm.assertEq(disputes.demand{value: bond}(batch.header, trees[i], oneKey(keys[i])), 1);
        }
    }

    function _slashUnits(BatchData memory batch) private pure returns (uint256) {
        return batch.header.slashUpTo / MICRO;
    }
}
