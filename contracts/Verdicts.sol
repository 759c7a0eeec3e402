// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IAdapterRegistry} from "./interfaces/IAdapterRegistry.sol";
import {Fault, IDisputes, ReceiptWitness, Tree} from "./interfaces/IDisputes.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {IParameters} from "./interfaces/IParameters.sol";
import {BatchHeader, ISettlement, Opening, Receipt} from "./interfaces/ISettlement.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Lookups, TreeRoot} from "./libraries/Lookups.sol";
import {ReceiptRules} from "./libraries/ReceiptRules.sol";

/// @title Verdicts
/// @notice The part of `Disputes` that proofs and demands share: verification of receipts, and conviction of a batch;
/// see `IDisputes`.
abstract contract Verdicts is IDisputes {
    using Lookups for TreeRoot;

    /// @inheritdoc IDisputes
    ISettlement public immutable override settlement;
    /// @inheritdoc IDisputes
    IOperatorRegistry public immutable override operators;
    /// @inheritdoc IDisputes
    IParameters public immutable override parameters;
    /// @inheritdoc IDisputes
    IAdapterRegistry public immutable override adapters;

    /// @inheritdoc IDisputes
    mapping(bytes32 hash => uint256 blockNumber) public override reservedAt;

    constructor(ISettlement settlement_, IOperatorRegistry operators_, IAdapterRegistry adapters_) {
        settlement = settlement_;
        operators = operators_;
        parameters = settlement_.parameters();
        adapters = adapters_;
    }

    /// @inheritdoc IDisputes
    function reserve(bytes32 hash) external {
        require(reservedAt[hash] == 0, AlreadyReserved(hash));
        reservedAt[hash] = block.number;
        emit Reserved(hash);
    }

    // --- receipts, internal ---

    /// @notice Reverts unless the batch includes the receipt.
    /// @return prefix Sum of the receipts with lower indices.
    function _openReceipt(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening
    ) internal pure returns (uint128 prefix) {
        return Lookups.treeOf(header, Tree.Receipts).openKey(Hashing.receipt(receipt), opening);
    }

    function _faultOf(BatchHeader calldata header, ReceiptWitness calldata witness) internal view returns (Fault) {
        return ReceiptRules.faultOf(witness, witness.opening.value, header.committedAt, adapters);
    }

    /// @dev Which keys count depends on the time of the commit, not of the call: a retirement takes no evidence away.
    function _checkSigned(
        BatchHeader calldata header,
        Receipt calldata receipt,
        bytes calldata signature
    ) internal view {
        (address signer, , ) = ECDSA.tryRecoverCalldata(settlement.receiptDigest(receipt), signature);
        bool isSigned = operators.isReceiptKey(signer, header.operator, header.committedAt);
        require(isSigned, NotSignedBy(header.operator, signer));
    }

    function _checkHeader(BatchHeader calldata header, bytes32 expected) internal pure {
        bytes32 found = Hashing.batch(header);
        require(found == expected, HeaderMismatch(expected, found));
    }

    // --- convictions, internal ---

    /// @dev The caller is rewarded if it reserved this call in an earlier block.
    function _convict(BatchHeader calldata header) internal {
        uint256 at = reservedAt[keccak256(abi.encode(msg.sender, keccak256(msg.data)))];
        _void(header, at != 0 && at < block.number ? msg.sender : address(0));
    }

    function _void(BatchHeader calldata header, address challenger) internal {
        emit BatchConvicted(header.operator, header.number, Hashing.batch(header), msg.sig, challenger);
        settlement.voidFrom(header, challenger);
    }
}
