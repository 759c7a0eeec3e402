// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes} from "../../../contracts/interfaces/IDisputes.sol";
import {Vm} from "./Vm.sol";

/// @notice A challenger that reserves every proof in an earlier block before it sends it.
contract Prover {
    Vm private constant _VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    IDisputes private immutable _disputes;

    constructor(IDisputes disputes) {
        _disputes = disputes;
    }

    /// @notice Sends the call to the disputes, and returns or reverts as they do.
    fallback() external {
        _disputes.reserve(keccak256(abi.encode(address(this), keccak256(msg.data))));
        _VM.roll(block.number + 1);
        (bool isHeld, bytes memory result) = address(_disputes).call(msg.data);
        assembly ("memory-safe") {
            switch isHeld
            case 0 {
                revert(add(result, 32), mload(result))
            }
            default {
                return(add(result, 32), mload(result))
            }
        }
    }
}
