// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Bounds, Profile} from "../interfaces/IParameters.sol";

/// @title Profiles
/// @notice The hard bounds of public chains. Those of the local chain are in contracts/local/LocalParameters.sol.
///
/// The profiles differ in how long a halt of the chain, or a sequencer that censors, can keep a transaction out, and
/// thus in the time for an answer to a demand. docs/trust-model.md has the analysis and its sources.
library Profiles {
    error NoBounds(Profile profile);

    function boundsOf(Profile profile) internal pure returns (Bounds memory bounds) {
        require(profile != Profile.Local, NoBounds(profile));
        bounds = _common();
        if (profile == Profile.Ethereum) _setEthereum(bounds);
        if (profile == Profile.OpStack) _setOpStack(bounds);
        if (profile == Profile.Arbitrum) _setArbitrum(bounds);
    }

    /// @notice Returns the bounds that ratios have in every profile; the local one uses them too.
    function ratios() internal pure returns (Bounds memory bounds) {
        bounds.maxFeePpm = 200_000;
        bounds.minStakeCoverPpm = 50_000;
        bounds.maxStakeCoverPpm = 1_000_000;
        bounds.maxContributorsFloorPpm = 900_000;
        bounds.maxOperatorFloorPpm = 500_000;
        bounds.minChallengerPpm = 50_000;
        // Below one half, so that an operator that accuses itself loses most of the slash.
        bounds.maxChallengerPpm = 490_000;
    }

    function _common() private pure returns (Bounds memory bounds) {
        bounds = ratios();
        bounds.maxDisputeWindow = 7 days;
        // What an operator must be able to send: an answer in each slot of Ethereum.
        bounds.secondsPerAnswer = 12 seconds;
        bounds.maxExtension = 1 days;
        bounds.maxPause = 3 days;
        bounds.pauseCoolDown = 14 days;
        bounds.maxSettlementInterval = 1 days;
        bounds.margin = 1 days;
    }

    function _setEthereum(Bounds memory bounds) private pure {
        bounds.minDisputeWindow = 1 days;
        // Proposers change every slot, so that none keeps an answer out for long; three hours let an operator react.
        bounds.answerSeconds = 3 hours;
        // Slots of twelve seconds, of which a quarter may be missed.
        bounds.maxBlockSeconds = 16 seconds;
        // The bond of a receipt is at least 0.0032 ether, which pays for the worst answer up to a base fee of 3 gwei.
        bounds.bondFee = 1 gwei;
    }

    function _setOpStack(Bounds memory bounds) private pure {
        // The answers to a first demand, which a sequencer hides for 12 hours, and the time that a second one needs.
        bounds.minDisputeWindow = 3 days;
        // The sequencing window, after which transactions sent by L1 are included without the sequencer, is 12 hours.
        bounds.answerSeconds = 15 hours;
        // Blocks are not counted: after an outage the missing ones are filled in, with the timestamps of the outage.
        bounds.maxBlockSeconds = 0;
        // The bond of a receipt is at least 0.0008 ether. Its answer of some 12 KB pays a data fee, which the base fee
        // of the chain does not include: 0.0006 ether, three quarters of the bond, if a byte takes one blob gas at 50
        // gwei.
        bounds.bondFee = 0.25 gwei;
    }

    function _setArbitrum(Bounds memory bounds) private pure {
        // Two demands, a reserve and a proof that the sequencer delays by 24 hours each, and two answers: 150 hours.
        bounds.minDisputeWindow = 7 days;
        // A transaction in the delayed inbox can be forced in after 24 hours.
        bounds.answerSeconds = 27 hours;
        // Blocks are not counted: `block.number` is an estimate of L1's, which moves on while the sequencer halts.
        bounds.maxBlockSeconds = 0;
        // As on the OP stack. The gas of a transaction includes its data fee at the time, so this is a reserve for a
        // rise of that fee.
        bounds.bondFee = 0.25 gwei;
    }
}
