// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @notice An EIP-1271 wallet of two owners: its signature is both of theirs, one after the other.
contract SharedWallet is IERC1271 {
    address private immutable _first;
    address private immutable _second;

    constructor(address first, address second) {
        (_first, _second) = (first, second);
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view override returns (bytes4) {
        if (signature.length != 130) return 0;
        bool isFirst = ECDSA.recoverCalldata(hash, signature[:65]) == _first;
        bool isSecond = ECDSA.recoverCalldata(hash, signature[65:]) == _second;
        return isFirst && isSecond ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}

/// @notice An EIP-1271 wallet with one owner.
contract ContractWallet is IERC1271 {
    address private immutable _owner;

    constructor(address owner) {
        _owner = owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view override returns (bytes4) {
        return ECDSA.recoverCalldata(hash, signature) == _owner ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}
