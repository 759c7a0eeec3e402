// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title Market token
/// @notice The voting token of the market's governance, with a fixed supply and the block timestamp as its clock. It is
/// not the payment token, because vote checkpoints would double the gas of every payment.
contract MarketToken is ERC20Permit, ERC20Votes {
    /// @notice Mints the supply.
    /// @param holder Account that receives the whole supply.
    /// @param supply In 10^-18 tokens.
    constructor(
        address holder,
        uint256 supply
    ) ERC20("loraledger market token", "LMT") ERC20Permit("loraledger market token") {
        _mint(holder, supply);
    }

    /// @notice Returns the block timestamp (ERC-6372).
    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    /// @notice Returns the clock mode, which is the timestamp (ERC-6372).
    function CLOCK_MODE() public pure override returns (string memory) { // solhint-disable-line func-name-mixedcase
        return "mode=timestamp";
    }

    /// @notice Returns the next nonce of `owner`, which permits and delegations by signature share.
    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}
