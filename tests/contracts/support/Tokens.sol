// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A token with the decimals that the vault requires.
abstract contract SixDecimals is ERC20 {
    constructor(string memory name) ERC20(name, name) {}

    function decimals() public pure override returns (uint8) {
        return 6;
    }
}

/// @notice A token with any number of decimals.
contract DecimalsToken is ERC20("Decimals", "DEC") {
    uint8 private immutable _decimals;

    constructor(uint8 decimals_) {
        _decimals = decimals_;
    }

    function decimals() public view override returns (uint8) {
        return _decimals;
    }
}

/// @notice Charges one unit on every transfer.
contract ChargingToken is SixDecimals("Charging") {
    function mint(address account, uint256 units) external {
        _mint(account, units);
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (from != address(0) && units != 0) super._update(to, address(1), 1);
    }
}

/// @notice Refuses transfers to accounts on its block list.
contract BlockingToken is SixDecimals("Blocking") {
    mapping(address account => bool) private _isBlocked;

    error Blocked(address account);

    function mint(address account, uint256 units) external {
        _mint(account, units);
    }

    function setBlocked(address account, bool isBlocked) external {
        _isBlocked[account] = isBlocked;
    }

    function _update(address from, address to, uint256 units) internal override {
        require(!_isBlocked[to], Blocked(to));
        super._update(from, to, units);
    }
}

/// @notice Makes one configured call during a transfer.
contract CallingToken is SixDecimals("Calling") {
    address private _target;
    bytes private _data;
    bool public hasCalled;
    bool public hasSucceeded;

    function mint(address account, uint256 units) external {
        _mint(account, units);
    }

    function callOnTransfer(address target, bytes calldata data) external {
        (_target, _data) = (target, data);
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (_target == address(0)) return;
        address target = _target;
        _target = address(0);
        hasCalled = true;
        (hasSucceeded, ) = target.call(_data);
    }
}
