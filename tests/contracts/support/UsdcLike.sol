// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC1967Utils} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Utils.sol";
import {TestUSD} from "../../../contracts/local/TestUSD.sol";

/// @notice What Circle publishes of USDC (FiatTokenV2_2) and a test dollar lacks: the token pauses, blocks accounts,
/// and is upgraded behind its proxy. Everybody holds its roles here. Source: github.com/circlefin/stablecoin-evm.
contract UsdcLike is TestUSD {
    bool public paused;
    mapping(address account => bool) public isBlacklisted;

    function pause() external {
        paused = true;
    }

    function unpause() external {
        paused = false;
    }

    function blacklist(address account) external {
        isBlacklisted[account] = true;
    }

    function unBlacklist(address account) external {
        isBlacklisted[account] = false;
    }

    function upgradeTo(address implementation) external {
        ERC1967Utils.upgradeToAndCall(implementation, "");
    }

    function approve(address spender, uint256 units) public override returns (bool) {
        _checkMoves(msg.sender, spender);
        return super.approve(spender, units);
    }

    /// @dev Transfers with an authorization check their parties, and not the caller, whom USDC ignores there.
    function _transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce
    ) internal override {
        _checkMoves(from, to);
        super._transferWithAuthorization(from, to, value, validAfter, validBefore, nonce);
    }

    function transfer(address to, uint256 units) public override returns (bool) {
        _checkMoves(msg.sender, to);
        return super.transfer(to, units);
    }

    function transferFrom(address from, address to, uint256 units) public override returns (bool) {
        _checkMoves(from, to);
        require(!isBlacklisted[msg.sender], "Blacklistable: account is blacklisted");
        return super.transferFrom(from, to, units);
    }

    function _checkMoves(address from, address to) private view {
        require(!paused, "Pausable: paused");
        require(!isBlacklisted[from] && !isBlacklisted[to], "Blacklistable: account is blacklisted");
    }
}

/// @notice An upgrade that takes a fee of one unit from every transfer, which no version of USDC does.
contract UsdcWithFee is UsdcLike {
    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (from != address(0) && units != 0) super._update(to, address(1), 1);
    }
}
