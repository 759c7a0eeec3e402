// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Vm} from "./Vm.sol";

/// @notice Helpers of all tests.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// @dev The order of secp256k1: an upper bound of private keys, and `CURVE_ORDER - s` is the other `s` of a
    /// signature.
    uint256 internal constant CURVE_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    /// @notice Maps `value` into `[min, max]`.
    function bound(uint256 value, uint256 min, uint256 max) internal pure returns (uint256) {
        if (value >= min && value <= max) return value;
        uint256 size = max - min;
        return size == type(uint256).max ? value : min + (value % (size + 1));
    }

    /// @notice Returns the private key of `name`.
    function keyOf(string memory name) internal pure returns (uint256) {
        return bound(uint256(keccak256(bytes(name))), 1, CURVE_ORDER - 1);
    }

    /// @notice Returns the account of `name`.
    function accountOf(string memory name) internal returns (address account) {
        account = vm.addr(keyOf(name));
        vm.label(account, name);
    }

    /// @notice Deploys the contract `name` (source and contract, as in `contracts/A.sol:A`) as it was built for
    /// deployment. A contract that a test imports is compiled by the settings of the test's own file, which ignores the
    /// compiler overrides in hardhat.config.js.
    /// @param arguments The ABI encoding of the constructor's arguments.
    function deployArtifact(string memory name, bytes memory arguments) internal returns (address deployed) {
        bytes memory code = abi.encodePacked(vm.getCode(name), arguments);
        assembly ("memory-safe") {
            deployed := create(0, add(code, 32), mload(code))
            if iszero(deployed) {
                let reason := mload(0x40)
                returndatacopy(reason, 0, returndatasize())
                revert(reason, returndatasize())
            }
        }
    }

    /// @notice Delegates the account's code to a contract, as an EIP-7702 transaction does.
    function delegateCode(address account) internal {
        vm.etch(account, abi.encodePacked(hex"ef0100", address(this)));
    }

    /// @notice Returns a 65-byte signature.
    function sign(uint256 privateKey, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(privateKey, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @notice Returns the signature with the other `s`, which `ecrecover` accepts and the contracts must refuse.
    function malleate(bytes memory signature) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 s, uint8 v) = (_word(signature, 32), _word(signature, 64), uint8(signature[64]));
        return abi.encodePacked(r, CURVE_ORDER - uint256(s), v == 27 ? uint8(28) : uint8(27));
    }

    /// @notice Returns the EIP-712 digest of `structHash` in the domain of `verifier` on chain `chainId`.
    function typedDigest(uint256 chainId, address verifier, bytes32 structHash) internal pure returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("loraledger"),
                keccak256("1"),
                chainId,
                verifier
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    function typedDigest(address verifier, bytes32 structHash) internal view returns (bytes32) {
        return typedDigest(block.chainid, verifier, structHash);
    }

    function _word(bytes memory data, uint256 offset) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(data, offset))
        }
    }
}
