// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Bounds, Profile} from "../interfaces/IParameters.sol";

/// @title Profiles
/// @notice The hard bounds of each profile. The profiles differ only in times.
library Profiles {
    function boundsOf(Profile profile) internal pure returns (Bounds memory bounds) {
        bounds.maxFeePpm = 200_000;
        bounds.minStakeCoverPpm = 50_000;
        bounds.maxStakeCoverPpm = 1_000_000;
        bounds.maxContributorsFloorPpm = 900_000;
        bounds.maxOperatorFloorPpm = 500_000;
        bounds.minChallengerPpm = 50_000;
        // Below one half, so that an operator that accuses itself loses most of the slash.
        bounds.maxChallengerPpm = 490_000;
        // 0.001 dollars and 1,000 dollars of a token with six decimals.
        bounds.minDemandBond = 1e9;
        bounds.maxDemandBond = 1e15;
        if (profile == Profile.Local) {
            _setLocalTimes(bounds);
        } else {
            _setProductionTimes(bounds);
        }
    }

    function _setLocalTimes(Bounds memory bounds) private pure {
        // A shorter window has no separate seconds for a demand, its answer and a proof.
        bounds.minDisputeWindow = 3 seconds;
        bounds.maxDisputeWindow = 2 minutes;
        bounds.maxPause = 1 minutes;
        bounds.pauseCoolDown = 5 minutes;
        bounds.maxSettlementInterval = 1 minutes;
        bounds.margin = 30 seconds;
    }

    function _setProductionTimes(Bounds memory bounds) private pure {
        bounds.minDisputeWindow = 1 days;
        bounds.maxDisputeWindow = 7 days;
        bounds.maxPause = 3 days;
        bounds.pauseCoolDown = 14 days;
        bounds.maxSettlementInterval = 1 days;
        bounds.margin = 1 days;
        // Slots of twelve seconds, of which a quarter may be missed.
        bounds.maxBlockSeconds = 16 seconds;
    }
}
