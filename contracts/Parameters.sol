// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {Bounds, IParameters, ParameterSet, Profile} from "./interfaces/IParameters.sol";
import {IPaymentVault} from "./interfaces/IPaymentVault.sol";
import {Profiles} from "./libraries/Profiles.sol";
import {Units} from "./libraries/Units.sol";

/// @title Parameters
/// @notice See `IParameters`.
contract Parameters is IParameters, AccessManaged {
    /// @inheritdoc IParameters
    Profile public immutable override profile;
    /// @inheritdoc IParameters
    IPaymentVault public immutable override vault;

    // One slot: a commit reads both.
    /// @inheritdoc IParameters
    uint32 public override currentId;
    /// @inheritdoc IParameters
    uint64 public override pausedUntil;

    mapping(uint32 id => ParameterSet) private _sets;

    /// @notice Starts with one set, checked against the profile's bounds.
    /// @param authority The access manager.
    /// @param profile_ Which hard bounds hold.
    /// @param vault_ The vault, whose thaw must outlast every governed delay of a collection.
    /// @param first Set 0.
    constructor(
        address authority,
        Profile profile_,
        IPaymentVault vault_,
        ParameterSet memory first
    ) AccessManaged(authority) {
        Bounds memory limits = Profiles.boundsOf(profile_);
        uint64 delays = uint64(limits.maxSettlementInterval) + limits.maxDisputeWindow + limits.maxPause;
        delays += limits.margin;
        uint64 thaw = vault_.thawSeconds();
        require(thaw > delays, ThawTooShort(thaw, delays + 1));
        profile = profile_;
        vault = vault_;
        _check(first, limits);
        _sets[0] = first;
        emit ParameterSetAppended(0, first);
    }

    // --- governance ---

    /// @inheritdoc IParameters
    function setFee(uint32 feePpm) external restricted {
        ParameterSet memory next = current();
        next.feePpm = feePpm;
        _append(next);
    }

    /// @inheritdoc IParameters
    function setTreasury(address treasury) external restricted {
        ParameterSet memory next = current();
        next.treasury = treasury;
        _append(next);
    }

    /// @inheritdoc IParameters
    function setDisputeWindow(uint32 disputeWindow) external restricted {
        ParameterSet memory next = current();
        next.disputeWindow = disputeWindow;
        _append(next);
    }

    /// @inheritdoc IParameters
    function setStakeCover(uint32 stakeCoverPpm) external restricted {
        ParameterSet memory next = current();
        next.stakeCoverPpm = stakeCoverPpm;
        _append(next);
    }

    /// @inheritdoc IParameters
    function setSplitRules(
        uint32 minContributorsPpm,
        uint32 minOperatorPpm,
        uint32 maxOperatorPpm
    ) external restricted {
        ParameterSet memory next = current();
        next.minContributorsPpm = minContributorsPpm;
        next.minOperatorPpm = minOperatorPpm;
        next.maxOperatorPpm = maxOperatorPpm;
        _append(next);
    }

    /// @inheritdoc IParameters
    function setDisputeTerms(uint32 challengerPpm, uint128 demandBond) external restricted {
        ParameterSet memory next = current();
        next.challengerPpm = challengerPpm;
        next.demandBond = demandBond;
        _append(next);
    }

    /// @inheritdoc IParameters
    function pauseCommits(uint32 duration) external restricted {
        Bounds memory limits = bounds();
        uint64 coolUntil = pausedUntil == 0 ? 0 : pausedUntil + limits.pauseCoolDown;
        require(duration <= limits.maxPause, PauseTooLong(duration, limits.maxPause));
        require(block.timestamp >= coolUntil, PauseCoolingDown(coolUntil));
        pausedUntil = uint64(block.timestamp) + duration;
        emit CommitsPaused(msg.sender, pausedUntil);
    }

    // --- views ---

    /// @inheritdoc IParameters
    function commitTerms(uint32 id) external view returns (uint32 disputeWindow, uint32 stakeCoverPpm) {
        require(id == currentId, NotCurrentSet(id, currentId));
        require(block.timestamp >= pausedUntil, CommitsArePaused(pausedUntil));
        ParameterSet storage set = _sets[id];
        return (set.disputeWindow, set.stakeCoverPpm);
    }

    /// @inheritdoc IParameters
    function splitRules()
        external
        view
        returns (uint32 id, uint32 minContributorsPpm, uint32 minOperatorPpm, uint32 maxOperatorPpm)
    {
        id = currentId;
        ParameterSet storage set = _sets[id];
        return (id, set.minContributorsPpm, set.minOperatorPpm, set.maxOperatorPpm);
    }

    /// @inheritdoc IParameters
    function setAt(uint32 id) external view returns (ParameterSet memory) {
        require(id <= currentId, ParameterSetUnknown(id));
        return _sets[id];
    }

    /// @inheritdoc IParameters
    function current() public view returns (ParameterSet memory) {
        return _sets[currentId];
    }

    /// @inheritdoc IParameters
    function bounds() public view returns (Bounds memory) {
        return Profiles.boundsOf(profile);
    }

    // --- inside ---

    function _append(ParameterSet memory next) private {
        _check(next, bounds());
        uint32 id = currentId + 1;
        currentId = id;
        _sets[id] = next;
        emit ParameterSetAppended(id, next);
    }

    function _check(ParameterSet memory set, Bounds memory limits) private pure {
        require(set.treasury != address(0), OutOfBounds("treasury", 0, 1, type(uint160).max));
        _checkRange("feePpm", set.feePpm, 0, limits.maxFeePpm);
        _checkRange("stakeCoverPpm", set.stakeCoverPpm, limits.minStakeCoverPpm, limits.maxStakeCoverPpm);
        _checkRange("disputeWindow", set.disputeWindow, limits.minDisputeWindow, limits.maxDisputeWindow);
        _checkRange("minContributorsPpm", set.minContributorsPpm, 0, limits.maxContributorsFloorPpm);
        _checkRange("minOperatorPpm", set.minOperatorPpm, 0, limits.maxOperatorFloorPpm);
        // Operator's least and contributors' least must leave room for each other, or nothing could be registered.
        uint256 room = Units.PPM - set.minContributorsPpm;
        _checkRange("minOperatorPpm", set.minOperatorPpm, 0, room);
        _checkRange("maxOperatorPpm", set.maxOperatorPpm, set.minOperatorPpm, Units.PPM);
        _checkRange("challengerPpm", set.challengerPpm, limits.minChallengerPpm, limits.maxChallengerPpm);
        _checkRange("demandBond", set.demandBond, 0, limits.maxDemandBond);
    }

    function _checkRange(bytes32 parameter, uint256 value, uint256 min, uint256 max) private pure {
        require(value >= min && value <= max, OutOfBounds(parameter, value, min, max));
    }
}
