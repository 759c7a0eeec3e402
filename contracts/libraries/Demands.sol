// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Demand, Tree} from "../interfaces/IDisputes.sol";
import {BatchHeader} from "../interfaces/ISettlement.sol";

/// @notice The fields of `Bounds` that concern demands, which a market never changes.
struct DemandTerms {
    uint64 answerSeconds;
    uint64 secondsPerAnswer;
    uint64 maxExtension;
    uint64 maxBlockSeconds;
    uint256 bondFee;
}

/// @notice The demands on a batch; see `IDisputes.demandsOn`.
struct BatchDemands {
    uint32 open;
    uint64 demandsUntil;
    uint64 proofsUntil;
}

/// @notice The demands on a batch, and the queue of its operator; see `IDisputes.answersDueUntil`.
struct Queue {
    uint32 open;
    uint64 demandsUntil;
    uint64 proofsUntil;
    uint64 answersDueUntil;
}

/// @title Demands
/// @notice The price and the deadlines of demands, see `IDisputes`.
library Demands {
    /// @dev Gas of the most expensive answers with a reserve: a receipt of four slices with 256 entries each, and a
    /// look-up of an absent key in a tree of 2^32 leaves. tests/snapshots/gas.json has the measured values.
    uint256 internal constant RECEIPT_GAS = 800_000;
    uint256 internal constant LOOKUP_GAS = 240_000;
    /// @dev Three quarters of a bond reach the operator, so it earns three times the base fee of the demand. The base
    /// fee may be that much higher when it answers, and it chooses the moment within `answerSeconds`.
    uint256 internal constant FACTOR = 4;
    /// @dev A bond doubles with this number of leaves in the operator's queue, triples with twice the number, and so
    /// on.
    uint256 internal constant QUEUE_STEP = 64;
    /// @dev The part of a bond that is never paid out, so that an operator that demands its own leaves pays for it.
    uint256 internal constant BURNT_DIVISOR = 4;

    /// @notice Too little time remains for an answer and a proof before `finality`: the batch's `finalAt`, or the later
    /// time to which the queue of an earlier demand moved it.
    error TooLateToDemand(uint64 finality);

    /// @notice Returns the bonds of `count` further leaves in wei: the sum of 64 + depth, 64 + depth + 1, ... units,
    /// where the depth is the number of leaves in the operator's queue.
    function bondOf(
        DemandTerms memory terms,
        Tree tree,
        uint64 answersDueUntil,
        uint256 count,
        uint256 baseFee
    ) internal view returns (uint256) {
        (, uint256 depth) = _next(terms, answersDueUntil);
        return _bondUnit(terms, tree, baseFee) * (count * (QUEUE_STEP + depth) + (count * count - count) / 2);
    }

    /// @notice Returns what an answer credits to the operator of a leaf's bond.
    function creditOf(uint256 bond) internal pure returns (uint256) {
        return bond - bond / BURNT_DIVISOR;
    }

    /// @notice Reverts unless an answer and then a proof fit before the batch can become final: in time or, where
    /// blocks are counted, in blocks, because after a halt of the chain time has passed without blocks.
    function checkTimeLeft(DemandTerms memory terms, BatchHeader calldata header, uint64 demandsUntil) internal view {
        uint256 finality = Math.max(header.finalAt, demandsUntil);
        uint256 needed = 2 * terms.answerSeconds;
        bool isInTime = block.timestamp + needed <= finality;
        bool isInBlocks = terms.maxBlockSeconds != 0 &&
            block.number + needed / terms.maxBlockSeconds <= header.finalBlock;
        require(isInTime || isInBlocks, TooLateToDemand(uint64(finality)));
    }

    /// @notice Returns a demand of the caller for one more leaf of a batch, and adds it to the queue.
    /// @dev The queue of an operator grows by `secondsPerAnswer` with each leaf and empties with time, so that the
    /// operator can answer one leaf after the other, across all of its batches. The batch's finality moves
    /// by as much as the answer. Whatever an operator demands of itself, its challengers have as much time after the
    /// delayed answer as they would have had after a timely one. A demand in the last moment that finds the queue empty
    /// leaves no room for another: otherwise a chain of single leaves would use up `maxExtension`, and leave none to a
    /// queue.
    function add(
        DemandTerms memory terms,
        Queue memory queue,
        uint64 finalAt,
        Tree tree
    ) internal view returns (Demand memory next) {
        (uint256 due, uint256 depth) = _next(terms, queue.answersDueUntil);
        uint256 soonest = block.timestamp + terms.answerSeconds;
        uint256 delay = Math.min(due - soonest, terms.maxExtension);
        uint256 latest = uint256(finalAt) + terms.maxExtension - terms.answerSeconds;
        uint256 deadline = Math.max(soonest, Math.min(soonest + delay, latest));
        next.challenger = msg.sender;
        next.bond = SafeCast.toUint96(_bondUnit(terms, tree, block.basefee) * (QUEUE_STEP + depth));
        next.deadline = uint64(deadline);
        if (terms.maxBlockSeconds != 0) {
            next.deadlineBlock = uint64(block.number + (deadline - block.timestamp) / terms.maxBlockSeconds);
        }
        ++queue.open;
        queue.answersDueUntil = uint64(due);
        queue.demandsUntil = uint64(Math.max(queue.demandsUntil, finalAt + delay));
        uint256 proofsUntil = Math.max(queue.demandsUntil, deadline + terms.answerSeconds);
        queue.proofsUntil = uint64(Math.max(queue.proofsUntil, proofsUntil));
    }

    /// @notice Returns whether it is too late to answer.
    /// @dev A halt of the chain moves the time but not the block number, so both deadlines must have passed.
    function isPast(Demand memory demand) internal view returns (bool) {
        return block.timestamp > demand.deadline && block.number > demand.deadlineBlock;
    }

    /// @notice Returns when the next answer is due without a bound, and how many leaves are due before it.
    function _next(
        DemandTerms memory terms,
        uint64 answersDueUntil
    ) private view returns (uint256 due, uint256 depth) {
        uint256 soonest = block.timestamp + terms.answerSeconds;
        due = Math.max(soonest, uint256(answersDueUntil) + terms.secondsPerAnswer);
        depth = (due - soonest) / terms.secondsPerAnswer;
    }

    /// @notice Returns the bond of a leaf divided by 64 + the depth of the queue, in wei.
    function _bondUnit(DemandTerms memory terms, Tree tree, uint256 baseFee) private pure returns (uint256) {
        uint256 worst = tree == Tree.Receipts ? RECEIPT_GAS : LOOKUP_GAS;
        return (worst * (baseFee + terms.bondFee) * FACTOR) / QUEUE_STEP;
    }
}
