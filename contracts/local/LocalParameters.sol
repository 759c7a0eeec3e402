// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Parameters} from "../Parameters.sol";
import {Bounds, ParameterSet, Profile} from "../interfaces/IParameters.sol";
import {IPaymentVault} from "../interfaces/IPaymentVault.sol";
import {Profiles} from "../libraries/Profiles.sol";

/// @title Local parameters
/// @notice `Parameters` of a development chain, with bounds of seconds instead of days, for the profile `Local`. It
/// takes the same arguments, so that all deployments are alike. The constructor reverts on any other chain.
contract LocalParameters is Parameters {
    uint256 private constant _LOCAL_CHAIN_ID = 31_337;
    /// @dev The least window with separate seconds for two answers, a proof and a reserve.
    uint32 private constant _MIN_WINDOW = 4 seconds;

    /// @dev An eighth of the first dispute window, so that a market whose processes need more than a second for an
    /// answer is deployed with a longer window.
    uint32 private immutable _answerSeconds;

    error NotALocalChain(uint256 chainId);

    constructor(
        address authority,
        Profile profile_,
        IPaymentVault vault_,
        ParameterSet memory first
    ) Parameters(authority, profile_, vault_, first) {
        require(block.chainid == _LOCAL_CHAIN_ID, NotALocalChain(block.chainid));
        uint32 eighth = first.disputeWindow / 8;
        _answerSeconds = eighth == 0 ? 1 seconds : eighth;
    }

    /// @notice Returns the bounds of the local chain.
    /// @dev The constructor of `Parameters`, which checks the first set, sees an answer time of zero.
    function bounds() public view virtual override returns (Bounds memory limits) {
        limits = Profiles.ratios();
        uint32 fourAnswers = 4 * _answerSeconds;
        limits.minDisputeWindow = fourAnswers < _MIN_WINDOW ? _MIN_WINDOW : fourAnswers;
        limits.maxDisputeWindow = 2 minutes;
        limits.answerSeconds = _answerSeconds;
        limits.secondsPerAnswer = 1 seconds;
        limits.maxExtension = 4 seconds;
        limits.maxPause = 1 minutes;
        limits.pauseCoolDown = 5 minutes;
        limits.maxSettlementInterval = 1 minutes;
        limits.margin = 30 seconds;
        limits.bondFee = 1 gwei;
    }
}
