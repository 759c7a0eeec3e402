// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAdapterRegistry} from "./interfaces/IAdapterRegistry.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {Bounds, IParameters} from "./interfaces/IParameters.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";

/// @title Generation
/// @notice The record of one set of operator registry, settlement and disputes, which know each other for ever: were
/// the fraud proofs replaceable, whoever replaces them could slash. The three are deployed one after the other, each
/// told the addresses of those to come; this record, deployed last, cannot exist unless they name each other. It can
/// do nothing. That their code is the published one is for whoever relies on it to check: see docs/deploy.md.
contract Generation {
    /// @notice The stakes and receipt keys.
    IOperatorRegistry public immutable operators;

    /// @notice The collector that payers name when they open a channel.
    ISettlement public immutable settlement;

    /// @notice The fraud proofs.
    IDisputes public immutable disputes;

    error UnstakeTooShort(uint64 unstakeSeconds, uint64 needed);
    /// @notice `subject` names another contract than `expected` in its field `field` (ASCII).
    error Miswired(address subject, bytes32 field, address expected, address found);

    /// @notice Checks the set.
    /// @param disputes_ The fraud proofs, which name the others.
    /// @param adapters The records to which receipts are to be held.
    constructor(IDisputes disputes_, IAdapterRegistry adapters) {
        ISettlement settlement_ = disputes_.settlement();
        IOperatorRegistry operators_ = disputes_.operators();
        _checkNames(address(settlement_), "disputes", address(disputes_), settlement_.disputes());
        _checkNames(address(settlement_), "operators", address(operators_), address(settlement_.operators()));
        _checkNames(address(operators_), "disputes", address(disputes_), operators_.disputes());
        _checkNames(address(operators_), "settlement", address(settlement_), operators_.settlement());
        _checkNames(address(disputes_), "adapters", address(adapters), address(disputes_.adapters()));
        _checkToken(settlement_, operators_);
        _checkUnstake(settlement_.parameters(), operators_.unstakeSeconds());
        (operators, settlement, disputes) = (operators_, settlement_, disputes_);
    }

    function _checkToken(ISettlement settlement_, IOperatorRegistry operators_) private view {
        address token = address(settlement_.vault().token());
        _checkNames(address(operators_), "token", token, address(operators_.token()));
    }

    /// @dev A stake must outlast the longest dispute window and the margin.
    function _checkUnstake(IParameters parameters, uint64 unstakeSeconds) private view {
        Bounds memory bounds = parameters.bounds();
        uint64 needed = uint64(bounds.maxDisputeWindow) + bounds.margin;
        require(unstakeSeconds >= needed, UnstakeTooShort(unstakeSeconds, needed));
    }

    function _checkNames(address subject, bytes32 field, address expected, address found) private pure {
        require(found == expected, Miswired(subject, field, expected, found));
    }
}
