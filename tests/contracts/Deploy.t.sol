// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Errors} from "@openzeppelin/contracts/utils/Errors.sol";

import {Generation} from "../../contracts/Generation.sol";
import {OperatorRegistry} from "../../contracts/OperatorRegistry.sol";
import {Parameters} from "../../contracts/Parameters.sol";
import {PaymentVault} from "../../contracts/PaymentVault.sol";
import {IAdapterRegistry} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {ParameterSet, Profile} from "../../contracts/interfaces/IParameters.sol";
import {TestUSD} from "../../contracts/local/TestUSD.sol";
import {Market} from "./support/Market.sol";

contract DeployTest is Market {
    /// @dev EIP-170.
    uint256 private constant MAX_CODE_SIZE = 24_576;

    function test_a_generation_records_its_contracts() external view {
        vm.assertEq(operators.settlement(), address(settlement));
        vm.assertEq(address(settlement.operators()), address(operators));
        vm.assertEq(settlement.disputes(), address(disputes));
        vm.assertEq(address(disputes.settlement()), address(settlement));
        vm.assertEq(address(disputes.operators()), address(operators));
        vm.assertEq(address(disputes.adapters()), address(adapters));
        vm.assertEq(address(disputes.datasets()), address(datasets));
        vm.assertEq(address(disputes.parameters()), address(parameters));
        vm.assertEq(address(settlement.vault()), address(vault));
        vm.assertEq(address(operators.token()), address(usd));
    }

    /// @dev The metadata hash at the end of the code commits to all sources and compiler settings. Immutables are zero
    /// in the artefact, so the rest of the code is compared by length.
    function test_finding11_tests_run_the_code_that_is_deployed() external {
        _checkCode("contracts/Disputes.sol:Disputes", address(disputes));
        _checkCode("contracts/Settlement.sol:Settlement", address(settlement));
        _checkCode("contracts/OperatorRegistry.sol:OperatorRegistry", address(operators));
        _checkCode("contracts/PaymentVault.sol:PaymentVault", address(vault));
        Parameters production = new Parameters(address(access), Profile.Ethereum, new PaymentVault(usd, 28 days), _set());
        _checkCode("contracts/Parameters.sol:Parameters", address(production));
        _checkCode("contracts/local/LocalParameters.sol:LocalParameters", address(parameters));
        _checkCode("contracts/DatasetRegistry.sol:DatasetRegistry", address(datasets));
        _checkCode("contracts/AdapterRegistry.sol:AdapterRegistry", address(adapters));
        _checkCode("contracts/Generation.sol:Generation", address(generation));
        _checkCode("contracts/MarketToken.sol:MarketToken", address(token));
        _checkCode("contracts/MarketGovernor.sol:MarketGovernor", address(governor));
    }

    function test_a_generation_of_unrelated_contracts_is_refused() external {
        vm.mockCall(address(operators), abi.encodeCall(IOperatorRegistry.settlement, ()), abi.encode(address(1)));
        vm.expectRevert(
            abi.encodeWithSelector(
                Generation.Miswired.selector,
                operators,
                bytes32("settlement"),
                settlement,
                address(1)
            )
        );
        new Generation(disputes, adapters);
    }

    function test_a_generation_whose_registry_has_other_parameters_is_refused() external {
        vm.mockCall(address(adapters), abi.encodeCall(IAdapterRegistry.parameters, ()), abi.encode(address(1)));
        vm.expectRevert(
            abi.encodeWithSelector(
                Generation.Miswired.selector,
                adapters,
                bytes32("parameters"),
                parameters,
                address(1)
            )
        );
        new Generation(disputes, adapters);
    }

    function test_the_operator_registry_requires_token_and_settlement(bool isToken) external {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.ZeroAddress.selector));
        new OperatorRegistry(isToken ? IERC20(address(0)) : usd, isToken ? address(settlement) : address(0));
    }

    function test_test_dollars_are_minted_on_the_local_chain_only(uint64 chain) external {
        vm.assume(chain != 31_337);
        usd.mint(holder, 5);
        vm.assertEq(usd.balanceOf(holder), 5);
        vm.assertEq(usd.decimals(), 6);
        vm.chainId(chain);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.NotALocalChain.selector, chain));
        new TestUSD();
    }

    function test_test_dollars_come_with_the_coin_that_is_sent_along(uint64 units, uint64 coin) external {
        address payable newcomer = payable(accountOf("newcomer"));
        vm.deal(address(this), coin);
        usd.fund{value: coin}(newcomer, units);
        vm.assertEq(usd.balanceOf(newcomer), units);
        vm.assertEq(newcomer.balance, coin);
        vm.expectRevert(abi.encodeWithSelector(Errors.FailedCall.selector));
        usd.fund{value: 0}(payable(address(settlement)), units);
    }

    /// @dev The first set, with a window of the public profiles.
    function _set() private view returns (ParameterSet memory set) {
        set = firstSet();
        set.disputeWindow = 7 days;
    }

    function _checkCode(string memory artifact, address deployed) private view {
        bytes memory built = vm.getDeployedCode(artifact);
        vm.assertEq(deployed.code.length, built.length);
        vm.assertLe(built.length, MAX_CODE_SIZE);
        vm.assertEq(_metadataOf(deployed.code), _metadataOf(built));
    }

    /// @dev The last two bytes are the length of the metadata before them.
    function _metadataOf(bytes memory code) private pure returns (bytes memory metadata) {
        uint256 end = code.length - 2;
        uint256 size = (uint256(uint8(code[end])) << 8) | uint8(code[end + 1]);
        metadata = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            metadata[i] = code[end - size + i];
        }
    }

    function test_the_whole_supply_starts_with_its_holder() external view {
        vm.assertEq(token.balanceOf(holder), SUPPLY);
        vm.assertEq(token.totalSupply(), SUPPLY);
    }
}
