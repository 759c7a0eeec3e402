// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

/// @title Test dollar
/// @notice The payment token of a local development chain, with six decimals, EIP-2612 and EIP-3009. Anyone may mint.
/// The constructor reverts on any other chain.
contract TestUSD is ERC20Permit, ERC3009 {
    uint256 private constant _LOCAL_CHAIN_ID = 31_337;

    error NotALocalChain(uint256 chainId);

    constructor() ERC20("Test USD", "TUSD") ERC20Permit("Test USD") {
        require(block.chainid == _LOCAL_CHAIN_ID, NotALocalChain(block.chainid));
    }

    /// @notice Mints `units` (10^-6 dollars) to `account`.
    function mint(address account, uint256 units) external {
        _mint(account, units);
    }

    /// @inheritdoc ERC20
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
