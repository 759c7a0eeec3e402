// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IPaymentVault} from "./IPaymentVault.sol";

/// @notice A set of governed parameters. Ratios in ppm. Sets are immutable; each batch names the set that applies.
/// @param treasury Account that earns the fee, and the contributors' share of versions without a snapshot.
/// @param feePpm Protocol fee on each slice's charge.
/// @param stakeCoverPpm Fraction of an operator's pot that its stake must cover when it commits.
/// @param disputeWindow Seconds from a batch's commit to its finality.
/// @param minContributorsPpm Minimum contributors' share of an adapter's charge after the fee.
/// @param minOperatorPpm Minimum operator's share of the charge after the fee.
/// @param maxOperatorPpm Maximum operator's share of the charge after the fee.
/// @param challengerPpm The challenger's share of a slash.
struct ParameterSet {
    address treasury;
    uint32 feePpm;
    uint32 stakeCoverPpm;
    uint32 disputeWindow;
    uint32 minContributorsPpm;
    uint32 minOperatorPpm;
    uint32 maxOperatorPpm;
    uint32 challengerPpm;
}

/// @notice Selects the hard bounds: seconds on a development chain, days on a public one, by the kind of the chain.
enum Profile {
    Local,
    Ethereum,
    OpStack,
    Arbitrum
}

/// @notice The hard bounds of a profile, which governance cannot change. Ratios in ppm, times in seconds.
/// @param maxFeePpm Upper bound of the protocol fee.
/// @param minStakeCoverPpm Lower bound of the stake cover.
/// @param maxStakeCoverPpm Upper bound of the stake cover, which is the whole pot.
/// @param minDisputeWindow Lower bound of the dispute window.
/// @param maxDisputeWindow Upper bound of the dispute window.
/// @param answerSeconds Time for an answer to a demand: at most a quarter of `minDisputeWindow`, so that two answers in
/// sequence, a proof and a reserve fit in every window.
/// @param secondsPerAnswer By how much each leaf in an operator's queue delays the deadline of the next. Not zero.
/// @param maxExtension The longest time by which demands can delay a batch's finality.
/// @param bondFee What the bond of a demand adds to the base fee, in wei per gas of the answer.
/// @param maxContributorsFloorPpm Upper bound of `minContributorsPpm`.
/// @param maxOperatorFloorPpm Upper bound of `minOperatorPpm`.
/// @param minChallengerPpm Lower bound of the challenger's share of a slash.
/// @param maxChallengerPpm Upper bound of the challenger's share of a slash: below one half, so that self-accusation
/// costs.
/// @param maxPause Maximum duration of a pause of commits.
/// @param pauseCoolDown Minimum time between the end of a pause and the start of the next.
/// @param maxSettlementInterval Longest commit interval at which an operator collects before any thaw ends. A set that
/// was appended stays current for as long, so that each operator can commit under it.
/// @param margin Safety margin within the thaw.
/// @param maxBlockSeconds Longest average time between blocks on which a window counted in blocks relies; zero if
/// windows are not counted in blocks.
struct Bounds {
    uint32 maxFeePpm;
    uint32 minStakeCoverPpm;
    uint32 maxStakeCoverPpm;
    uint32 minDisputeWindow;
    uint32 maxDisputeWindow;
    uint32 answerSeconds;
    uint32 secondsPerAnswer;
    uint32 maxExtension;
    uint64 bondFee;
    uint32 maxContributorsFloorPpm;
    uint32 maxOperatorFloorPpm;
    uint32 minChallengerPpm;
    uint32 maxChallengerPpm;
    uint32 maxPause;
    uint32 pauseCoolDown;
    uint32 maxSettlementInterval;
    uint32 margin;
    uint32 maxBlockSeconds;
}

/// @title Parameters
/// @notice An append-only list of parameter sets, of which the last is current, and the guardian's pause of commits.
///
/// Trust: governance (the timelock, through the access manager) appends sets within hard bounds that are fixed at
/// construction, and no faster than operators commit. A change affects only later commits and registrations. The
/// guardian can pause commits for a bounded time, with a cool-down. Neither can change a balance.
interface IParameters {
    /// @notice Set `id` was appended and is the current one.
    event ParameterSetAppended(uint32 indexed id, ParameterSet set);
    /// @notice Commits were paused until `until`.
    event CommitsPaused(address indexed guardian, uint64 until);

    /// @notice A parameter is outside its hard bounds. `parameter` is the name of its field in ASCII.
    error OutOfBounds(bytes32 parameter, uint256 value, uint256 min, uint256 max);
    /// @notice The zero address and the vault, whose balance is the payers', cannot be the treasury.
    error InvalidTreasury(address treasury);
    error ThawTooShort(uint64 thawSeconds, uint64 needed);
    error ParameterSetUnknown(uint32 id);
    /// @notice The call names set `named`, but the current set is `current`: the parameters changed in between.
    error ParameterSetNotCurrent(uint32 named, uint32 current);
    /// @notice The current set was appended less than `maxSettlementInterval` ago.
    error AppendedTooEarly(uint64 nextAppendAt);
    error CommitsArePaused(uint64 until);
    error PauseTooLong(uint32 duration, uint32 maxPause);
    error PauseCoolingDown(uint64 until);

    /// @notice Appends a set, which is the current one from then on. Restricted to governance.
    /// @param parent Id of the set that the new one was derived from. It must be the current one: of two proposals that
    /// were voted on at the same time, the second would otherwise undo the change of the first.
    /// @param set All parameters of the new set.
    /// @dev Sets that replace each other before operators can commit would stop all commits, as no pause can.
    function append(uint32 parent, ParameterSet calldata set) external;

    /// @notice The earliest time of the next append; zero before the first.
    function nextAppendAt() external view returns (uint64);

    /// @notice Pauses commits for `duration` seconds. Only the guardian.
    function pauseCommits(uint32 duration) external;

    /// @notice Returns the terms of a commit under set `id`. Reverts if the set is not current or commits are paused.
    /// @return disputeWindow Dispute window in seconds.
    /// @return windowBlocks Dispute window in blocks; zero if blocks are not counted.
    /// @return stakeCoverPpm Fraction of the pot that the stake must cover.
    function commitTerms(
        uint32 id
    ) external view returns (uint32 disputeWindow, uint32 windowBlocks, uint32 stakeCoverPpm);

    /// @notice Returns the current split rules and the id of their set.
    function splitRules()
        external
        view
        returns (uint32 id, uint32 minContributorsPpm, uint32 minOperatorPpm, uint32 maxOperatorPpm);

    /// @notice Returns the id of the current set; ids count from 0.
    function currentId() external view returns (uint32);

    /// @notice Returns the current set.
    function current() external view returns (ParameterSet memory);

    /// @notice Returns set `id`.
    function setAt(uint32 id) external view returns (ParameterSet memory);

    /// @notice Returns the end of the latest pause in Unix seconds; zero if commits were never paused.
    function pausedUntil() external view returns (uint64);

    /// @notice The profile chosen at construction.
    function profile() external view returns (Profile);

    /// @notice The vault, whose thaw exceeds every delay that the bounds allow.
    function vault() external view returns (IPaymentVault);

    /// @notice Returns the hard bounds.
    function bounds() external view returns (Bounds memory);
}
