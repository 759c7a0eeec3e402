// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Stake} from "../../../contracts/interfaces/IOperatorRegistry.sol";
import {Collection, Refund} from "../../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Claim, Commitment, OperatorState} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {Leaves} from "./BatchModel.sol";
import {PayerMoves} from "./PayerMoves.sol";
import {Tree, Trees} from "./Trees.sol";
import {Flaw, SmallBatch} from "./SmallBatches.sol";

/// @notice Moves of operators and earners. About half of all batches have a flaw.
abstract contract OperatorMoves is PayerMoves {
    using Trees for Tree;

    /// @dev Batch `number` at `number - 1`, as ABI-encoded `Whole`, then the batches voided, newest last.
    mapping(address operator => bytes[]) internal chains;
    mapping(address operator => bytes[]) internal voided;
    /// @dev Each batch's parameter set at the time of its commit.
    mapping(bytes32 batchHash => bytes32) internal termsOf;

    function commitBatch(
        uint256 operatorIndex,
        uint256 amounts,
        uint256 flaw,
        uint256 waived,
        uint256 session
    ) external move {
        chooseOperator(operatorIndex);
        OperatorState memory state = settlement.stateOf(operator);
        if (state.toRefund != 0) return;
        if (block.timestamp < parameters.pausedUntil()) vm.warp(parameters.pausedUntil());
        (Refund[] memory spans, Collection[] memory vouchers) = _spans(amounts, uint64(waived), session % 2 == 1);
        if (spans.length == 0) return;
        SmallBatch memory batch = buildSmallBatch(spans, _latestBalances(), flaw % 12 < 6 ? Flaw.None : Flaw(flaw % 6));
        _commit(batch, vouchers);
        _done();
    }

    function finalise(uint256 operatorIndex, uint256 number) external move {
        chooseOperator(operatorIndex);
        OperatorState memory state = settlement.stateOf(operator);
        uint256 end = state.finalised;
        while (end < state.last && !hasOpenDemand(batchAt(end + 1).header)) ++end;
        if (end == state.finalised) return;
        BatchHeader[] memory headers = new BatchHeader[](bound(number, state.finalised + 1, end) - state.finalised);
        for (uint256 i = 0; i < headers.length; ++i) {
            headers[i] = batchAt(state.finalised + 1 + i).header;
            (, , uint64 proofsUntil) = disputes.demandsOn(Hashing.batch(headers[i]));
            uint64 finality = headers[i].finalAt > proofsUntil ? headers[i].finalAt : proofsUntil;
            if (block.timestamp < finality) vm.warp(finality);
        }
        settlement.finalise(headers);
        _done();
    }

    function claim(uint256 operatorIndex, uint256 number, uint256 account) external move {
        chooseOperator(operatorIndex);
        OperatorState memory state = settlement.stateOf(operator);
        if (state.finalised == 0) return;
        // Against any final batch; most often the latest.
        number = number % 2 == 0 ? state.finalised : bound(number, 1, state.finalised);
        SmallBatch memory batch = batchAt(number);
        account = bound(account, 0, batch.balances.keys.length - 1);
        address earner = address(uint160(uint256(batch.balances.keys[account])));
        uint128 claimed = settlement.claimedOf(operator, earner);
        uint128 earned = batch.balances.values[account];
        if (earned < claimed + MICRO) return;
        // A batch with a flaw may credit more than the payout limit allows.
        uint128 floor = state.cumulativeTotal - state.finalTotal;
        uint128 amount = ((earned - claimed) / MICRO) * MICRO;
        if (vault.potOf(collector, operator) < floor + amount) return;
        uint256 before = usd.balanceOf(settlement.payoutWalletOf(earner));
        settlement.claim(Claim(batch.header, earner, balancesTree(batch).open(account)));
        vm.assertEq(usd.balanceOf(settlement.payoutWalletOf(earner)), before + amount / MICRO);
        _done();
    }

    function setWallet(uint256 account, uint256 wallet) external move {
        address earner = account % 3 == 2 ? creator : contributors[account % 3];
        vm.prank(earner);
        settlement.setPayoutWallet(wallet % 2 == 0 ? address(0) : accountOf("wallet"));
        _done();
    }

    function stakeMore(uint256 operatorIndex, uint256 units) external move {
        chooseOperator(operatorIndex);
        addStake(operator, bound(units, 1, STAKE_UNITS));
        _done();
    }

    function startUnstake(uint256 operatorIndex, uint256 amount) external move {
        chooseOperator(operatorIndex);
        // Mostly a small part, so that the rest covers batches.
        uint128 leaving = uint128(bound(amount, 0, operators.stakeOf(operator).stake / (amount % 4 == 0 ? 1 : 16)));
        vm.prank(operator);
        operators.startUnstake(leaving);
        _done();
    }

    function unstake(uint256 operatorIndex) external move {
        chooseOperator(operatorIndex);
        Stake memory kept = operators.stakeOf(operator);
        OperatorState memory state = settlement.stateOf(operator);
        uint128 amount = kept.unstaking < kept.stake ? kept.unstaking : kept.stake;
        bool isSettled = state.finalised == state.last && state.toRefund == 0;
        if (amount < MICRO || !(isSettled || state.finalised >= kept.lockedByBatch)) return;
        vm.prank(operator);
        vm.assertEq(operators.unstake(), (amount / MICRO) * MICRO);
        _done();
    }

    // --- helpers of other moves ---

    function batchAt(uint256 number) internal view returns (SmallBatch memory) {
        return abi.decode(chains[operator][number - 1], (SmallBatch));
    }

    // --- internal ---

    function _commit(SmallBatch memory batch, Collection[] memory vouchers) private {
        Commitment memory commitment = commitmentOf(batch);
        uint128 slashed = operators.stakeOf(operator).slashed;
        vm.prank(operator);
        settlement.commit(commitment, vouchers);
        batch.header = readEvents();
        chains[operator].push(abi.encode(batch));
        for (uint256 i = 0; i < batch.spans.length; ++i) {
            recordSpan(batch.spans[i], false);
        }
        uint256 pot = vault.potOf(collector, operator);
        uint256 required = (pot * parameters.current().stakeCoverPpm + 1e12 - 1) / 1e12;
        vm.assertEq(batch.header.slashUpTo, slashed + required * MICRO);
        termsOf[settlement.hashBatch(batch.header)] = keccak256(abi.encode(parameters.current()));
    }

    /// @dev One or two spans in order of channel id, within balances and cover.
    function _spans(
        uint256 amounts,
        uint64 waived,
        bool isSession
    ) private returns (Refund[] memory spans, Collection[] memory vouchers) {
        uint256 count = 0;
        (spans, vouchers) = (new Refund[](2), new Collection[](2));
        uint256 room = _coverLeft();
        bool isSwapped = _idOf(0) > _idOf(1);
        for (uint256 i = 0; i < 2; ++i) {
            choose(isSwapped ? 1 - i : i, operator == operatorAt(0) ? 0 : 1);
            uint256 balance = vault.channelOf(channel()).balance;
            uint256 max = balance < room ? balance : room;
            uint256 seed = uint128(amounts >> (128 * i));
            if (max == 0 || seed % 5 == 4) continue;
            uint128 amount = amountOf(seed, max);
            room -= amount;
            spans[count] = _span(amount, waived);
            vouchers[count] = _voucher(spans[count], isSession);
            ++count;
        }
        assembly ("memory-safe") {
            mstore(spans, count)
            mstore(vouchers, count)
        }
    }

    function _span(uint128 amount, uint64 waived) private view returns (Refund memory span) {
        (span.payer, span.before) = (payer, vault.channelOf(channel()).collected);
        span.from = waived % 4 == 0 ? span.before + waived / 4 : span.before;
        span.until = span.from + amount;
    }

    function _voucher(Refund memory span, bool isSession) private view returns (Collection memory) {
        uint256 privateKey = signerOf(span.until, isSession);
        return collection(privateKey, span.before, span.from, span.until, span.until);
    }

    /// @dev The amount that the stake still covers.
    function _coverLeft() private view returns (uint256) {
        (uint128 cover, ) = operators.coverOf(operator);
        uint256 covered = (uint256(cover / MICRO) * 1e12) / parameters.current().stakeCoverPpm;
        uint256 pot = vault.potOf(collector, operator);
        return covered > pot ? covered - pot : 0;
    }

    function _latestBalances() private view returns (Leaves memory leaves) {
        uint256 last = chains[operator].length;
        if (last != 0) leaves = batchAt(last).balances;
    }

    function _idOf(uint256 payerIndex) private view returns (bytes32) {
        return channelAt(2 * payerIndex + (operator == operatorAt(0) ? 0 : 1));
    }
}
