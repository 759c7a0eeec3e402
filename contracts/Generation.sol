// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAdapterRegistry} from "./interfaces/IAdapterRegistry.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";

/// @title Generation
/// @notice Records one set of operator registry, settlement and disputes, which reference each other immutably: if the
/// fraud proofs were replaceable, the account that replaces them could slash. The three are deployed in sequence, each
/// with the precomputed addresses of the later ones. This contract is deployed last, and its constructor reverts unless
/// they reference each other. It has no functions beyond its getters. It does not verify their code; see
/// docs/deploy.md for how to.
contract Generation {
    /// @notice The registry of stakes and receipt keys.
    IOperatorRegistry public immutable operators;

    /// @notice The collector that payers name when they open a channel.
    ISettlement public immutable settlement;

    /// @notice The fraud proofs.
    IDisputes public immutable disputes;

    /// @notice The field `field` (ASCII) of `subject` is `found` instead of `expected`.
    error Miswired(address subject, bytes32 field, address expected, address found);

    /// @notice Checks that the contracts reference each other.
    /// @param disputes_ The fraud proofs, which name the other two.
    /// @param adapters The adapter registry that the fraud proofs must use.
    constructor(IDisputes disputes_, IAdapterRegistry adapters) {
        ISettlement settlement_ = disputes_.settlement();
        IOperatorRegistry operators_ = disputes_.operators();
        _checkReference(address(settlement_), "disputes", address(disputes_), settlement_.disputes());
        _checkReference(address(settlement_), "operators", address(operators_), address(settlement_.operators()));
        _checkReference(address(operators_), "settlement", address(settlement_), operators_.settlement());
        _checkReference(address(disputes_), "adapters", address(adapters), address(disputes_.adapters()));
        _checkReference(
            address(adapters),
            "parameters",
            address(settlement_.parameters()),
            address(adapters.parameters())
        );
        _checkToken(settlement_, operators_);
        (operators, settlement, disputes) = (operators_, settlement_, disputes_);
    }

    function _checkToken(ISettlement settlement_, IOperatorRegistry operators_) private view {
        address token = address(settlement_.vault().token());
        _checkReference(address(operators_), "token", token, address(operators_.token()));
    }

    function _checkReference(address subject, bytes32 field, address expected, address found) private pure {
        require(found == expected, Miswired(subject, field, expected, found));
    }
}
