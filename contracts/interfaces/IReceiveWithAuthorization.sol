// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @title EIP-3009 with signatures of any length
/// @notice The overload of EIP-3009's `receiveWithAuthorization` that USDC (FiatTokenV2_2) and other tokens add, so
/// that contract wallets authorise transfers by signatures in a format of their own (EIP-1271).
interface IReceiveWithAuthorization {
    /// @notice Transfers `value` from `from` to `to`, the caller. The parameters are those of EIP-3009.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}
