// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IPaymentVault} from "./IPaymentVault.sol";

/// @notice The governed numbers. Ratios in ppm. A set never changes; a batch names the one it was made under.
/// @param treasury The account that earns the fee and the contributors' part of versions without snapshot.
/// @param feePpm Protocol fee, of each slice's charge.
/// @param stakeCoverPpm Part of an operator's pot that its stake must cover for a commit.
/// @param disputeWindow Seconds from a batch's commit to its finality.
/// @param minContributorsPpm Least part that an adapter's record leaves to contributors, of what remains after the fee.
/// @param minOperatorPpm Least part of a record for the operator, likewise.
/// @param maxOperatorPpm Most part of a record for the operator, likewise.
/// @param challengerPpm The challenger's part of a slash.
/// @param demandBond Bond for a demand, per leaf, in micro-units.
struct ParameterSet {
    address treasury;
    uint32 feePpm;
    uint32 stakeCoverPpm;
    uint32 disputeWindow;
    uint32 minContributorsPpm;
    uint32 minOperatorPpm;
    uint32 maxOperatorPpm;
    uint32 challengerPpm;
    uint128 demandBond;
}

/// @notice Which hard bounds hold: seconds for a developer's chain, days for a public one.
enum Profile {
    Local,
    Production
}

/// @notice The hard bounds of a profile: no vote can cross them. Ratios in ppm, times in seconds.
/// @param maxFeePpm Upper bound of the protocol fee.
/// @param minStakeCoverPpm Lower bound of the stake cover.
/// @param maxStakeCoverPpm Upper bound of the stake cover: the whole pot.
/// @param minDisputeWindow Lower bound of the dispute window.
/// @param maxDisputeWindow Upper bound of the dispute window.
/// @param maxContributorsFloorPpm Upper bound of the minimum contributors' part.
/// @param maxOperatorFloorPpm Upper bound of the minimum operator's part.
/// @param minChallengerPpm Lower bound of the challenger's part of a slash.
/// @param maxChallengerPpm Upper bound of the challenger's part of a slash: below one, as self-accusation must not pay.
/// @param minDemandBond Lower bound of the bond per leaf, in micro-units: demands must not be free.
/// @param maxDemandBond Upper bound of the bond per leaf, in micro-units.
/// @param maxPause Longest pause of commits.
/// @param pauseCoolDown Least time between the end of a pause and the next.
/// @param minSettlementInterval Shortest interval at which an operator may keep committing without filling its ring.
/// @param maxSettlementInterval Longest interval at which an operator commits and still outruns every thaw.
/// @param margin Spare time within the thaw.
struct Bounds {
    uint32 maxFeePpm;
    uint32 minStakeCoverPpm;
    uint32 maxStakeCoverPpm;
    uint32 minDisputeWindow;
    uint32 maxDisputeWindow;
    uint32 maxContributorsFloorPpm;
    uint32 maxOperatorFloorPpm;
    uint32 minChallengerPpm;
    uint32 maxChallengerPpm;
    uint128 minDemandBond;
    uint128 maxDemandBond;
    uint32 maxPause;
    uint32 pauseCoolDown;
    uint32 minSettlementInterval;
    uint32 maxSettlementInterval;
    uint32 margin;
}

/// @title Parameters
/// @notice An append-only list of parameter sets, the last being the current one, and the guardian's pause of commits.
///
/// Trust: governance (the timelock, through the access manager) appends sets within hard bounds that were fixed at
/// construction; a change touches only what is committed or registered after it. The guardian can pause commits for a
/// bounded time, with a cool-down. Neither touches any balance.
interface IParameters {
    /// @notice Set `id` is the current one from now on.
    event ParameterSetAppended(uint32 indexed id, ParameterSet set);
    /// @notice No batch can be committed before `until`.
    event CommitsPaused(address indexed guardian, uint64 until);

    /// @notice The named parameter is outside its hard bounds. `parameter` is its field's name in ASCII.
    error OutOfBounds(bytes32 parameter, uint256 value, uint256 min, uint256 max);
    error ThawTooShort(uint64 thawSeconds, uint64 needed);
    error ParameterSetUnknown(uint32 id);
    /// @notice The batch names `named`, but `current` is in force: the parameters changed meanwhile.
    error NotCurrentSet(uint32 named, uint32 current);
    error CommitsArePaused(uint64 until);
    error PauseTooLong(uint32 duration, uint32 maxPause);
    error PauseCoolingDown(uint64 until);

    /// @notice Sets the protocol fee. Only governance, as all setters.
    function setFee(uint32 feePpm) external;

    /// @notice Sets the treasury.
    function setTreasury(address treasury) external;

    /// @notice Sets the dispute window, in seconds.
    function setDisputeWindow(uint32 disputeWindow) external;

    /// @notice Sets the stake cover.
    function setStakeCover(uint32 stakeCoverPpm) external;

    /// @notice Sets the rules that records are held to at registration.
    function setSplitRules(uint32 minContributorsPpm, uint32 minOperatorPpm, uint32 maxOperatorPpm) external;

    /// @notice Sets the challenger's part of a slash and the bond per leaf of a demand.
    function setDisputeTerms(uint32 challengerPpm, uint128 demandBond) external;

    /// @notice Stops commits for `duration` seconds. Only the guardian.
    function pauseCommits(uint32 duration) external;

    /// @notice The terms of a commit that names set `id`; reverts if the set is not current or commits are paused.
    function commitTerms(uint32 id) external view returns (uint32 disputeWindow, uint32 stakeCoverPpm);

    /// @notice The rules that a record registered now is held to.
    function splitRules()
        external
        view
        returns (uint32 id, uint32 minContributorsPpm, uint32 minOperatorPpm, uint32 maxOperatorPpm);

    /// @notice The id of the current set; ids count from 0.
    function currentId() external view returns (uint32);

    /// @notice The current set.
    function current() external view returns (ParameterSet memory);

    /// @notice The set `id`.
    function setAt(uint32 id) external view returns (ParameterSet memory);

    /// @notice The instant at which the last pause ends or ended; zero if there was none.
    function pausedUntil() external view returns (uint64);

    /// @notice The profile chosen at construction.
    function profile() external view returns (Profile);

    /// @notice The vault whose thaw outlasts every delay that the bounds allow.
    function vault() external view returns (IPaymentVault);

    /// @notice The hard bounds.
    function bounds() external view returns (Bounds memory);
}
