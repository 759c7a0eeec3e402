// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Demand, IDisputes, Tree} from "../../../contracts/interfaces/IDisputes.sol";
import {IOperatorRegistry} from "../../../contracts/interfaces/IOperatorRegistry.sol";
import {IPaymentVault} from "../../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, ISettlement} from "../../../contracts/interfaces/ISettlement.sol";
import {Batches} from "./Batches.sol";
import {Log} from "./Vm.sol";

/// @notice Reconstructs the market's balances from events alone, as an indexer does that never reads state. If an event
/// stated another amount than the one that moved, this ledger would differ from the state.
abstract contract EventLedger is Batches {
    mapping(bytes32 channel => address operator) private _operatorOf;
    mapping(bytes32 leafId => uint256 bond) private _bondOf;

    mapping(bytes32 channel => uint256) internal seenBalance;
    mapping(bytes32 channel => uint256) internal seenCollected;
    mapping(address operator => uint256) internal seenPot;
    mapping(address operator => uint256) internal seenStake;
    mapping(address operator => uint256) internal seenTotal;
    mapping(address operator => uint256) internal seenLast;
    mapping(address operator => uint256) internal seenFinalised;
    mapping(address operator => mapping(address account => uint256)) internal seenClaimed;
    /// @dev Total received by an account, in micro-units.
    mapping(address account => uint256) internal seenPaid;
    /// @dev Credits from demands, in wei.
    mapping(address account => uint256) internal seenCredit;
    /// @dev Micro-units in the vault, micro-units of stakes; wei of open bonds, of credits, and burnt.
    uint256 internal seenInVault;
    uint256 internal seenInStakes;
    uint256 internal seenInBonds;
    uint256 internal seenInCredits;
    uint256 internal seenBurnt;

    /// @notice Processes the events since the last call.
    /// @return header The batch committed since then, if any.
    function readEvents() internal returns (BatchHeader memory header) {
        Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            address emitter = logs[i].emitter;
            if (emitter == address(vault)) _readVault(logs[i]);
            if (emitter == address(operators)) _readStake(logs[i]);
            if (emitter == address(disputes)) _readBond(logs[i]);
            if (emitter != address(settlement)) continue;
            _readSettlement(logs[i]);
            if (logs[i].topics[0] == ISettlement.BatchCommitted.selector) {
                header = abi.decode(logs[i].data, (BatchHeader));
            }
        }
    }

    function _readVault(Log memory log) private {
        (bytes32 topic, bytes32 id) = (log.topics[0], log.topics[1]);
        if (topic == IPaymentVault.ChannelOpened.selector) {
            _operatorOf[id] = _account(log.topics[3]);
        } else if (topic == IPaymentVault.Deposited.selector) {
            uint128 amount = abi.decode(log.data, (uint128));
            seenBalance[id] += amount;
            seenInVault += amount;
        } else if (topic == IPaymentVault.Withdrawn.selector) {
            uint128 amount = abi.decode(log.data, (uint128));
            seenBalance[id] -= amount;
            seenPaid[_account(log.topics[2])] += amount;
            seenInVault -= amount;
        } else if (topic == IPaymentVault.BalanceMoved.selector) {
            (uint128 amount, ) = abi.decode(log.data, (uint128, uint256));
            seenBalance[id] -= amount;
            seenInVault -= amount;
        } else if (topic == IPaymentVault.Collected.selector) {
            (uint128 before, uint128 from, uint128 until) = abi.decode(log.data, (uint128, uint128, uint128));
            vm.assertEq(seenCollected[id], before);
            seenBalance[id] -= until - from;
            seenPot[_operatorOf[id]] += until - from;
            seenCollected[id] = until;
        } else if (topic == IPaymentVault.Refunded.selector) {
            (uint128 amount, uint128 collected) = abi.decode(log.data, (uint128, uint128));
            seenBalance[id] += amount;
            seenPot[_operatorOf[id]] -= amount;
            seenCollected[id] = collected;
        }
    }

    function _readStake(Log memory log) private {
        (bytes32 topic, address account) = (log.topics[0], _account(log.topics[1]));
        if (topic == IOperatorRegistry.Staked.selector) {
            uint128 amount = abi.decode(log.data, (uint128));
            seenStake[account] += amount;
            seenInStakes += amount;
        } else if (topic == IOperatorRegistry.Unstaked.selector) {
            uint128 amount = abi.decode(log.data, (uint128));
            seenStake[account] -= amount;
            seenPaid[account] += amount;
            seenInStakes -= amount;
        } else if (topic == IOperatorRegistry.Slashed.selector) {
            (uint128 reward, uint128 rest) = abi.decode(log.data, (uint128, uint128));
            seenStake[account] -= reward + rest;
            seenInStakes -= reward + rest;
            seenPaid[_account(log.topics[2])] += reward;
            seenPaid[_account(log.topics[3])] += rest;
        }
    }

    function _readBond(Log memory log) private {
        (bytes32 topic, bytes32 id) = (log.topics[0], log.topics.length > 1 ? log.topics[1] : bytes32(0));
        if (topic == IDisputes.Demanded.selector) {
            (, , Demand memory demand_) = abi.decode(log.data, (Tree, bytes32, Demand));
            _bondOf[id] = demand_.bond;
            seenInBonds += demand_.bond;
        } else if (topic == IDisputes.Answered.selector) {
            seenInBonds -= _bondOf[id];
            seenBurnt += _bondOf[id] / 4;
        } else if (topic == IDisputes.BondReturned.selector) {
            seenInBonds -= abi.decode(log.data, (uint256));
        } else if (topic == IDisputes.CreditChanged.selector) {
            _setCredit(_account(id), abi.decode(log.data, (uint256)));
        } else if (topic == IDisputes.CreditWithdrawn.selector) {
            vm.assertEq(seenCredit[_account(id)], abi.decode(log.data, (uint256)));
            _setCredit(_account(id), 0);
        }
    }

    function _setCredit(address account, uint256 credit) private {
        seenInCredits = seenInCredits + credit - seenCredit[account];
        seenCredit[account] = credit;
    }

    function _readSettlement(Log memory log) private {
        (bytes32 topic, address account) = (log.topics[0], _account(log.topics[1]));
        if (topic == ISettlement.BatchCommitted.selector) {
            BatchHeader memory header = abi.decode(log.data, (BatchHeader));
            vm.assertEq(log.topics[3], keccak256(log.data));
            seenTotal[account] += header.total;
            seenLast[account] = header.number;
        } else if (topic == ISettlement.BatchesVoided.selector) {
            seenLast[account] = uint256(log.topics[2]) - 1;
        } else if (topic == ISettlement.BatchRefunded.selector) {
            seenTotal[account] -= abi.decode(log.data, (uint128));
        } else if (topic == ISettlement.BatchFinalised.selector) {
            seenFinalised[account] = uint256(log.topics[2]);
        } else if (topic == ISettlement.Claimed.selector) {
            (address wallet, uint128 amount, uint128 cumulative) = abi.decode(log.data, (address, uint128, uint128));
            address earner = _account(log.topics[2]);
            seenPot[account] -= amount;
            seenPaid[wallet] += amount;
            seenInVault -= amount;
            seenClaimed[account][earner] += amount;
            vm.assertEq(seenClaimed[account][earner], cumulative);
        }
    }

    function _account(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }
}
