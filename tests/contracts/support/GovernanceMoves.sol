// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {AccessManager} from "@openzeppelin/contracts/access/manager/AccessManager.sol";
import {Bounds, IParameters} from "../../../contracts/interfaces/IParameters.sol";
import {IOperatorRegistry} from "../../../contracts/interfaces/IOperatorRegistry.sol";
import {Collection, IPaymentVault, Refund} from "../../../contracts/interfaces/IPaymentVault.sol";
import {ISettlement} from "../../../contracts/interfaces/ISettlement.sol";
import {DisputeMoves} from "./DisputeMoves.sol";
import {SmallBatch} from "./SmallBatches.sol";

/// @notice Moves of governance and the guardian, and attempts that no role may make.
abstract contract GovernanceMoves is DisputeMoves {
    /// @dev Long enough for demands and answers between other moves.
    uint32 private constant _FIRST_WINDOW = 2 minutes;

    address[2] internal treasuries;

    function setUp() public virtual override {
        super.setUp();
        treasuries = [address(timelock), accountOf("another treasury")];
        setDisputeWindow(_FIRST_WINDOW);
    }

    function pause(uint256 duration) external move {
        Bounds memory limits = parameters.bounds();
        uint64 last = parameters.pausedUntil();
        if (last != 0 && block.timestamp < last + limits.pauseCoolDown) return;
        vm.prank(guardian);
        parameters.pauseCommits(uint32(bound(duration, 0, limits.maxPause)));
        _done();
    }

    function change(uint256 which, uint256 value) external move {
        Bounds memory b = parameters.bounds();
        uint32 batch = 1_000_000;
        which %= 6;
        if (which == 0) setFee(_in(value, 0, b.maxFeePpm));
        if (which == 1) setTreasury(treasuries[value % 2]);
        if (which == 2) setDisputeWindow(_in(value, b.minDisputeWindow, b.maxDisputeWindow));
        if (which == 3) setStakeCover(_in(value, b.minStakeCoverPpm, b.maxStakeCoverPpm));
        if (which == 4) {
            uint32 least = _in(value, 0, b.maxContributorsFloorPpm);
            uint32 max = b.maxOperatorFloorPpm < batch - least ? b.maxOperatorFloorPpm : batch - least;
            uint32 operatorPpm = _in(value >> 32, 0, max);
            setSplitRules(least, operatorPpm, _in(value >> 64, operatorPpm, batch));
        }
        if (which == 5) {
            setChallengerShare(_in(value, b.minChallengerPpm, b.maxChallengerPpm));
        }
        _done();
    }

    function wait(uint256 time) external move {
        // Seconds are as likely as minutes.
        vm.warp(block.timestamp + bound(time, 1, time % 4 == 0 ? THAW : 5));
        _done();
    }

    /// @notice A role attempts every call that moves amounts or batches, with arguments that are valid for the right
    /// caller.
    function meddle(uint256 payerIndex, uint256 operatorIndex, uint256 amount, uint256 role) external move {
        choose(payerIndex, operatorIndex);
        (address[] memory targets, bytes[] memory calls) = _forbidden(uint128(bound(amount, 1, type(uint64).max)));
        address[7] memory roles = [
            guardian,
            curator,
            address(timelock),
            address(governor),
            address(access),
            holder,
            address(this)
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.prank(roles[role % roles.length]);
            (bool isDone, ) = targets[i].call(calls[i]);
            vm.assertFalse(isDone);
            vm.prank(address(timelock));
            (bool isRelayed, ) = address(access).call(abi.encodeCall(AccessManager.execute, (targets[i], calls[i])));
            vm.assertFalse(isRelayed);
        }
        _done();
    }

    function _forbidden(uint128 amount) private view returns (address[] memory targets, bytes[] memory calls) {
        (targets, calls) = (new address[](7), new bytes[](7));
        uint128 line = vault.channelOf(channel()).collected;
        Collection[] memory vouchers = new Collection[](1);
        vouchers[0] = collection(keyOf(payerName), line, line + amount);
        Refund[] memory spans = new Refund[](1);
        spans[0] = Refund(payer, line == 0 ? 0 : line - 1, line == 0 ? 0 : line - 1, line);
        SmallBatch memory batch;
        if (chains[operator].length != 0) batch = batchAt(chains[operator].length);
        for (uint256 i = 0; i < 5; ++i) targets[i] = address(vault);
        calls[0] = abi.encodeCall(IPaymentVault.payOut, (operator, guardian, 1, 0));
        calls[1] = abi.encodeCall(IPaymentVault.refund, (operator, spans));
        calls[2] = abi.encodeCall(IPaymentVault.withdraw, (operator, collector));
        calls[3] = abi.encodeCall(IPaymentVault.thaw, (operator, collector, amount));
        calls[4] = abi.encodeCall(IPaymentVault.collect, (operator, vouchers));
        (targets[5], targets[6]) = (address(settlement), address(operators));
        calls[5] = abi.encodeCall(ISettlement.voidPending, (batch.header, guardian));
        calls[6] = abi.encodeCall(IOperatorRegistry.slash, (operator, 0, guardian, 0, guardian));
    }

    function _in(uint256 value, uint32 min, uint32 max) private pure returns (uint32) {
        return uint32(bound(uint32(value), min, max));
    }
}
