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

    /// @dev The values that commits and registrations read, packed into one slot: the pause and a copy of the current
    /// set's rules.
    struct Rules {
        uint64 pausedUntil;
        uint32 id;
        uint32 disputeWindow;
        uint32 stakeCoverPpm;
        uint32 minContributorsPpm;
        uint32 minOperatorPpm;
        uint32 maxOperatorPpm;
    }

    uint32 private immutable _maxBlockSeconds;

    Rules private _rules;
    /// @inheritdoc IParameters
    uint64 public override nextAppendAt;
    mapping(uint32 id => ParameterSet) private _sets;

    /// @notice Appends the first set, checked against the profile's bounds.
    /// @param authority The access manager.
    /// @param profile_ Profile that selects the hard bounds.
    /// @param vault_ The vault, whose thaw must exceed every governed delay of a collection.
    /// @param first Parameter set 0.
    constructor(
        address authority,
        Profile profile_,
        IPaymentVault vault_,
        ParameterSet memory first
    ) AccessManaged(authority) {
        profile = profile_;
        Bounds memory limits = bounds();
        uint64 delays = uint64(limits.maxSettlementInterval) + limits.maxDisputeWindow + limits.maxExtension;
        delays += uint64(limits.maxPause) + limits.margin;
        uint64 thaw = vault_.thawSeconds();
        require(thaw > delays, ThawTooShort(thaw, delays + 1));
        vault = vault_;
        _maxBlockSeconds = limits.maxBlockSeconds;
        _store(0, first, limits);
    }

    // --- governance ---

    /// @inheritdoc IParameters
    function append(uint32 parent, ParameterSet calldata set) external restricted {
        uint32 currentSet = _rules.id;
        require(parent == currentSet, ParameterSetNotCurrent(parent, currentSet));
        require(block.timestamp >= nextAppendAt, AppendedTooEarly(nextAppendAt));
        Bounds memory limits = bounds();
        nextAppendAt = uint64(block.timestamp) + limits.maxSettlementInterval;
        _store(currentSet + 1, set, limits);
    }

    /// @inheritdoc IParameters
    function pauseCommits(uint32 duration) external restricted {
        Bounds memory limits = bounds();
        uint64 last = _rules.pausedUntil;
        uint64 coolUntil = last == 0 ? 0 : last + limits.pauseCoolDown;
        require(duration <= limits.maxPause, PauseTooLong(duration, limits.maxPause));
        require(block.timestamp >= coolUntil, PauseCoolingDown(coolUntil));
        uint64 until = uint64(block.timestamp) + duration;
        _rules.pausedUntil = until;
        emit CommitsPaused(msg.sender, until);
    }

    // --- views ---

    /// @inheritdoc IParameters
    function commitTerms(
        uint32 id
    ) external view returns (uint32 disputeWindow, uint32 windowBlocks, uint32 stakeCoverPpm) {
        (uint32 currentSet, uint64 until) = (_rules.id, _rules.pausedUntil);
        (disputeWindow, stakeCoverPpm) = (_rules.disputeWindow, _rules.stakeCoverPpm);
        windowBlocks = _maxBlockSeconds == 0 ? 0 : disputeWindow / _maxBlockSeconds;
        require(id == currentSet, ParameterSetNotCurrent(id, currentSet));
        require(block.timestamp >= until, CommitsArePaused(until));
    }

    /// @inheritdoc IParameters
    function splitRules()
        external
        view
        returns (uint32 id, uint32 minContributorsPpm, uint32 minOperatorPpm, uint32 maxOperatorPpm)
    {
        return (_rules.id, _rules.minContributorsPpm, _rules.minOperatorPpm, _rules.maxOperatorPpm);
    }

    /// @inheritdoc IParameters
    function setAt(uint32 id) external view returns (ParameterSet memory) {
        require(id <= _rules.id, ParameterSetUnknown(id));
        return _sets[id];
    }

    /// @inheritdoc IParameters
    function currentId() external view returns (uint32) {
        return _rules.id;
    }

    /// @inheritdoc IParameters
    function pausedUntil() external view returns (uint64) {
        return _rules.pausedUntil;
    }

    /// @inheritdoc IParameters
    function current() public view returns (ParameterSet memory) {
        return _sets[_rules.id];
    }

    /// @inheritdoc IParameters
    function bounds() public view virtual returns (Bounds memory) {
        return Profiles.boundsOf(profile);
    }

    // --- internal ---

    function _store(uint32 id, ParameterSet memory set, Bounds memory limits) private {
        _checkSet(set, limits);
        _sets[id] = set;
        _rules = Rules({
            pausedUntil: _rules.pausedUntil,
            id: id,
            disputeWindow: set.disputeWindow,
            stakeCoverPpm: set.stakeCoverPpm,
            minContributorsPpm: set.minContributorsPpm,
            minOperatorPpm: set.minOperatorPpm,
            maxOperatorPpm: set.maxOperatorPpm
        });
        emit ParameterSetAppended(id, set);
    }

    function _checkSet(ParameterSet memory set, Bounds memory limits) private view {
        // The vault pays nothing to itself, and tokens sent to it are lost.
        require(set.treasury != address(0) && set.treasury != address(vault), InvalidTreasury(set.treasury));
        _checkRange("feePpm", set.feePpm, 0, limits.maxFeePpm);
        _checkRange("stakeCoverPpm", set.stakeCoverPpm, limits.minStakeCoverPpm, limits.maxStakeCoverPpm);
        _checkRange("disputeWindow", set.disputeWindow, limits.minDisputeWindow, limits.maxDisputeWindow);
        _checkRange("minContributorsPpm", set.minContributorsPpm, 0, limits.maxContributorsFloorPpm);
        _checkRange("minOperatorPpm", set.minOperatorPpm, 0, limits.maxOperatorFloorPpm);
        // The two minimum shares must not exceed one together; otherwise no adapter could be registered.
        uint256 available = Units.PPM - set.minContributorsPpm;
        _checkRange("minOperatorPpm", set.minOperatorPpm, 0, available);
        _checkRange("maxOperatorPpm", set.maxOperatorPpm, set.minOperatorPpm, Units.PPM);
        _checkRange("challengerPpm", set.challengerPpm, limits.minChallengerPpm, limits.maxChallengerPpm);
    }

    function _checkRange(bytes32 parameter, uint256 value, uint256 min, uint256 max) private pure {
        require(value >= min && value <= max, OutOfBounds(parameter, value, min, max));
    }
}
