// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IReceiveWithAuthorization} from "../interfaces/IReceiveWithAuthorization.sol";

/// @title Test dollar
/// @notice The payment token of a local development chain, with six decimals, EIP-2612 and EIP-3009. Anyone may mint.
/// `receiveWithAuthorization` verifies as USDC does: it asks an account with code by EIP-1271, in both encodings of the
/// signature. The constructor reverts on any other chain.
contract TestUSD is ERC20Permit, ERC3009, IReceiveWithAuthorization {
    uint256 private constant _LOCAL_CHAIN_ID = 31_337;

    error NotALocalChain(uint256 chainId);

    constructor() ERC20("Test USD", "TUSD") ERC20Permit("Test USD") {
        require(block.chainid == _LOCAL_CHAIN_ID, NotALocalChain(block.chainid));
    }

    /// @notice Mints `units` (10^-6 dollars) to `account`.
    function mint(address account, uint256 units) external {
        _mint(account, units);
    }

    /// @notice Mints `units` (10^-6 dollars) to `account`, and passes it the coin that comes with the call.
    function fund(address payable account, uint256 units) external payable {
        _mint(account, units);
        Address.sendValue(account, msg.value);
    }

    /// @inheritdoc ERC3009
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) public override {
        receiveWithAuthorization(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    /// @inheritdoc IReceiveWithAuthorization
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public {
        bytes32 structHash = keccak256(
            abi.encode(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce)
        );
        bool isSigned = SignatureChecker.isValidSignatureNow(from, _hashTypedDataV4(structHash), signature);
        require(isSigned, ERC3009InvalidSignature());
        require(to == _msgSender(), ERC20InvalidReceiver(to));
        _transferWithAuthorization(from, to, value, validAfter, validBefore, nonce);
    }

    /// @inheritdoc ERC20
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
