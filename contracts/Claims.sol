// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IPaymentVault} from "./interfaces/IPaymentVault.sol";
import {Claim, ISettlement, Opening} from "./interfaces/ISettlement.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {MerkleSum} from "./libraries/MerkleSum.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Units} from "./libraries/Units.sol";

/// @title Claims
/// @notice The part of `Settlement` that pays out the balances of final batches; see `ISettlement`.
abstract contract Claims is ISettlement, EIP712, Nonces {
    /// @inheritdoc ISettlement
    IPaymentVault public immutable override vault;

    /// @inheritdoc ISettlement
    mapping(address operator => bytes32) public override balancesHashOf;
    /// @inheritdoc ISettlement
    mapping(address operator => mapping(address account => uint128 amount)) public override claimedOf;
    mapping(address account => address wallet) private _payoutWallets;

    constructor(IPaymentVault vault_) EIP712("loraledger", "1") {
        vault = vault_;
    }

    /// @inheritdoc ISettlement
    function claim(Claim calldata request) external {
        (address operator, address account) = (request.operator, request.account);
        Opening calldata opening = request.opening;
        uint128 finalTotal = _checkBalance(operator, account, request.balancesCount, opening);
        mapping(address => uint128) storage claimedBy = claimedOf[operator];
        uint128 claimed = claimedBy[account];
        (uint256 units, uint128 amount) = _claimable(operator, account, opening.value, claimed);

        uint128 cumulative = claimed + amount;
        claimedBy[account] = cumulative;
        address wallet = payoutWalletOf(account);
        emit Claimed(operator, account, wallet, amount, cumulative);
        // `finalTotal` caps the total payout at what final batches collected, so that amounts collected by pending and
        // unrefunded batches stay in the pot.
        vault.payOut(operator, wallet, units, finalTotal);
    }

    /// @inheritdoc ISettlement
    function claimMany(Claim[] calldata requests) external {
        for (uint256 i = 0; i < requests.length; ++i) {
            // An external call per claim, so that the error of a failed claim can be reported with its index.
            // solhint-disable-next-line no-empty-blocks
            try this.claim(requests[i]) {} catch (bytes memory reason) {
                require(bytes4(reason) == NothingToClaim.selector, ClaimFailed(i, reason));
            }
        }
    }

    /// @inheritdoc ISettlement
    function setPayoutWallet(address wallet) external {
        _setPayoutWallet(msg.sender, wallet);
    }

    /// @inheritdoc ISettlement
    function setPayoutWalletWithSig(
        address account,
        address wallet,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external {
        require(block.timestamp <= deadline, SignatureExpired(deadline));
        _useCheckedNonce(account, nonce);
        bytes32 structHash = Hashing.payoutChange(account, wallet, nonce, deadline);
        require(Signatures.isValid(account, _hashTypedDataV4(structHash), signature), InvalidSignature(account));
        _setPayoutWallet(account, wallet);
    }

    /// @inheritdoc ISettlement
    function payoutWalletOf(address account) public view returns (address) {
        address wallet = _payoutWallets[account];
        return wallet == address(0) ? account : wallet;
    }

    // --- internal ---

    /// @notice Computes the claimable part of `earned`. Reverts if it is below one unit.
    /// @return units Claimable token units.
    /// @return amount The same in micro-units, at most `earned - claimed`.
    function _claimable(
        address operator,
        address account,
        uint128 earned,
        uint128 claimed
    ) private pure returns (uint256 units, uint128 amount) {
        // A dishonest batch may state a balance below the amount already claimed.
        unchecked {
            uint128 claimable = earned > claimed ? earned - claimed : 0;
            units = Units.toUnitsDown(claimable);
            require(units != 0, NothingToClaim(operator, account, claimable));
            return (units, claimable - (claimable % Units.MICRO));
        }
    }

    function _setPayoutWallet(address account, address wallet) private {
        // The vault refuses to pay itself, so every claim of the account would revert.
        require(wallet != address(vault), InvalidWallet(wallet));
        _payoutWallets[account] = wallet;
        emit PayoutWalletChanged(account, wallet == address(0) ? account : wallet);
    }

    /// @notice Verifies the opening of a balance against the latest final batch.
    /// @return finalTotal The sum of the balances of the operator's latest final batch.
    function _checkBalance(
        address operator,
        address account,
        uint32 count,
        Opening calldata opening
    ) private view returns (uint128 finalTotal) {
        bytes32 root;
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.BALANCES, Hashing.account(account));
        (root, finalTotal, ) = MerkleSum.open(leaf, count, opening);
        bytes32 opened = Hashing.balances(root, count, finalTotal);
        bytes32 expected = balancesHashOf[operator];
        require(opened == expected, BalancesMismatch(operator, expected, opened));
    }
}
