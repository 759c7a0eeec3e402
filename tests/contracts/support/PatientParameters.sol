// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Bounds, ParameterSet, Profile} from "../../../contracts/interfaces/IParameters.sol";
import {IPaymentVault} from "../../../contracts/interfaces/IPaymentVault.sol";
import {LocalParameters} from "../../../contracts/local/LocalParameters.sol";

/// @notice Local parameters with enough seconds for an answer that tests can act in between.
contract PatientParameters is LocalParameters {
    constructor(
        address authority,
        IPaymentVault vault_,
        ParameterSet memory first
    ) LocalParameters(authority, Profile.Local, vault_, first) {}

    function bounds() public view virtual override returns (Bounds memory limits) {
        limits = super.bounds();
        limits.answerSeconds = 10 seconds;
        limits.secondsPerAnswer = 2 seconds;
        limits.maxExtension = 20 seconds;
    }
}

/// @notice The same on a chain whose blocks count.
contract BlockParameters is PatientParameters {
    constructor(
        address authority,
        IPaymentVault vault_,
        ParameterSet memory first
    ) PatientParameters(authority, vault_, first) {}

    function bounds() public view override returns (Bounds memory limits) {
        limits = super.bounds();
        limits.maxBlockSeconds = 2 seconds;
    }
}
