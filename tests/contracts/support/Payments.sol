// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Authorization, ChannelId, Collection, SessionGrant} from "../../../contracts/interfaces/IPaymentVault.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {Market} from "./Market.sol";

/// @notice A market with a payer, an operator, and an externally owned account as collector, as which tests can act.
abstract contract Payments is Market {
    uint128 internal constant MICRO = 1_000_000;

    address internal payer;
    string internal payerName = "payer";
    address internal operator;
    address internal collector;
    address internal sessionKey;

    function setUp() public virtual override {
        super.setUp();
        (payer, operator, sessionKey) = (accountOf("payer"), accountOf("operator"), accountOf("session key"));
        collector = accountOf("collector");
    }

    function channel() internal view returns (ChannelId) {
        return vault.channelIdOf(payer, operator, collector);
    }

    function noGrant() internal pure returns (SessionGrant memory grant) {
        return grant;
    }

    function grantOf(uint128 cap, uint64 expiry) internal view returns (SessionGrant memory) {
        return SessionGrant(sessionKey, cap, expiry);
    }

    /// @notice Mints tokens to `account` and approves the vault.
    function fund(address account, uint256 units) internal {
        usd.mint(account, units);
        vm.prank(account);
        usd.approve(address(vault), units);
    }

    function deposit(uint256 units) internal returns (ChannelId) {
        return deposit(units, noGrant());
    }

    function deposit(uint256 units, SessionGrant memory grant) internal returns (ChannelId) {
        fund(payer, units);
        vm.prank(payer);
        return vault.deposit(operator, collector, units, grant);
    }

    /// @notice The payer's EIP-3009 authorization of a deposit, signed by the key of `payerName`.
    function authorize(
        uint256 units,
        SessionGrant memory grant,
        bytes32 salt
    ) internal view returns (Authorization memory signed) {
        (signed.validBefore, signed.salt) = (block.timestamp + 1, salt);
        signed.signature = sign(keyOf(payerName), authorizationDigest(units, grant, signed));
    }

    function authorizationDigest(
        uint256 units,
        SessionGrant memory grant,
        Authorization memory terms
    ) internal view returns (bytes32) {
        bytes32 typehash = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
            "uint256 validBefore,bytes32 nonce)"
        );
        bytes32 nonce = vault.depositNonce(channel(), grant, terms.salt);
        bytes32 hash = keccak256(
            abi.encode(typehash, payer, address(vault), units, terms.validAfter, terms.validBefore, nonce)
        );
        return keccak256(abi.encodePacked(hex"1901", usd.DOMAIN_SEPARATOR(), hash));
    }

    /// @notice A collection of the payer's channel up to `until` by a voucher with the same limit, signed with
    /// `privateKey`.
    function collection(uint256 privateKey, uint128 before, uint128 until) internal view returns (Collection memory) {
        return collection(privateKey, before, 0, until, until);
    }

    function collection(
        uint256 privateKey,
        uint128 before,
        uint128 from,
        uint128 maxCumulative,
        uint128 until
    ) internal view returns (Collection memory c) {
        (c.payer, c.before, c.from, c.maxCumulative, c.until) = (payer, before, from, maxCumulative, until);
        bytes32 digest = typedDigest(address(vault), Hashing.voucher(channel(), from, maxCumulative));
        (c.r, c.vs) = compact(privateKey, digest);
    }

    /// @notice Returns an EIP-2098 signature.
    function compact(uint256 privateKey, bytes32 digest) internal pure returns (bytes32 r, bytes32 vs) {
        uint8 v;
        bytes32 s;
        (v, r, s) = vm.sign(privateKey, digest);
        vs = bytes32(uint256(s) | (uint256(v - 27) << 255));
    }

    function collect(Collection memory c) internal {
        Collection[] memory all = new Collection[](1);
        all[0] = c;
        vm.prank(collector);
        vault.collect(operator, all);
    }

    /// @notice Expects that collecting `c` reverts with `error`.
    function expectCollectError(Collection memory c, bytes memory error) internal {
        Collection[] memory all = new Collection[](1);
        all[0] = c;
        vm.expectRevert(error);
        vm.prank(collector);
        vault.collect(operator, all);
    }
}
