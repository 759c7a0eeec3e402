// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {AccessManager} from "@openzeppelin/contracts/access/manager/AccessManager.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {AdapterRegistry} from "../../../contracts/AdapterRegistry.sol";
import {DatasetRegistry} from "../../../contracts/DatasetRegistry.sol";
import {Generation} from "../../../contracts/Generation.sol";
import {MarketGovernor, VotingRules} from "../../../contracts/MarketGovernor.sol";
import {MarketToken} from "../../../contracts/MarketToken.sol";
import {OperatorRegistry} from "../../../contracts/OperatorRegistry.sol";
import {Parameters} from "../../../contracts/Parameters.sol";
import {PaymentVault} from "../../../contracts/PaymentVault.sol";
import {Settlement} from "../../../contracts/Settlement.sol";
import {IDisputes} from "../../../contracts/interfaces/IDisputes.sol";
import {IOperatorRegistry} from "../../../contracts/interfaces/IOperatorRegistry.sol";
import {ParameterSet, Profile} from "../../../contracts/interfaces/IParameters.sol";
import {ISettlement} from "../../../contracts/interfaces/ISettlement.sol";
import {Roles} from "../../../contracts/libraries/Roles.sol";
import {LocalParameters} from "../../../contracts/local/LocalParameters.sol";
import {TestUSD} from "../../../contracts/local/TestUSD.sol";
import {Base} from "./Base.sol";
import {Prover} from "./Prover.sol";

/// @notice All contracts of a local market, deployed in the order of every deployment.
abstract contract Market is Base {
    uint64 internal constant THAW = 5 minutes;
    uint32 internal constant WINDOW = 10 seconds;
    uint256 internal constant SUPPLY = 1_000_000e18;

    TestUSD internal usd;
    MarketToken internal token;
    TimelockController internal timelock;
    MarketGovernor internal governor;
    AccessManager internal access;
    PaymentVault internal vault;
    Parameters internal parameters;
    DatasetRegistry internal datasets;
    AdapterRegistry internal adapters;
    Generation internal generation;
    IOperatorRegistry internal operators;
    ISettlement internal settlement;
    IDisputes internal disputes;
    /// @dev Sends proofs that it reserves before.
    IDisputes internal prover;

    address internal guardian;
    address internal curator;
    address internal holder;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        (guardian, curator, holder) = (accountOf("guardian"), accountOf("curator"), accountOf("holder"));
        _deployTokens();
        _deployGovernance();
        _deployMarket();
        _assignRoles();
        _handOver();
    }

    function firstSet() internal view returns (ParameterSet memory) {
        return
            ParameterSet({
                treasury: address(timelock),
                feePpm: 50_000,
                stakeCoverPpm: 250_000,
                disputeWindow: WINDOW,
                minContributorsPpm: 200_000,
                minOperatorPpm: 100_000,
                maxOperatorPpm: 600_000,
                challengerPpm: 250_000
            });
    }

    // --- governance ---

    /// @notice Appends a parameter set as an executed proposal does, as soon as one may be appended.
    function append(ParameterSet memory set) internal {
        uint32 parent = parameters.currentId();
        if (block.timestamp < parameters.nextAppendAt()) vm.warp(parameters.nextAppendAt());
        vm.prank(address(timelock));
        parameters.append(parent, set);
    }

    function setFee(uint32 feePpm) internal {
        ParameterSet memory set = parameters.current();
        set.feePpm = feePpm;
        append(set);
    }

    function setTreasury(address treasury) internal {
        ParameterSet memory set = parameters.current();
        set.treasury = treasury;
        append(set);
    }

    function setDisputeWindow(uint32 disputeWindow) internal {
        ParameterSet memory set = parameters.current();
        set.disputeWindow = disputeWindow;
        append(set);
    }

    function setStakeCover(uint32 stakeCoverPpm) internal {
        ParameterSet memory set = parameters.current();
        set.stakeCoverPpm = stakeCoverPpm;
        append(set);
    }

    function setSplitRules(uint32 minContributorsPpm, uint32 minOperatorPpm, uint32 maxOperatorPpm) internal {
        ParameterSet memory set = parameters.current();
        set.minContributorsPpm = minContributorsPpm;
        (set.minOperatorPpm, set.maxOperatorPpm) = (minOperatorPpm, maxOperatorPpm);
        append(set);
    }

    function setChallengerShare(uint32 challengerPpm) internal {
        ParameterSet memory set = parameters.current();
        set.challengerPpm = challengerPpm;
        append(set);
    }

    // --- deployment ---

    /// @dev Tests of tokens override it.
    function newToken() internal virtual returns (TestUSD) {
        return new TestUSD();
    }

    function _deployTokens() private {
        usd = newToken();
        token = new MarketToken(holder, SUPPLY);
    }

    function _deployGovernance() private {
        address[] memory anyone = new address[](1);
        timelock = new TimelockController(2 seconds, new address[](0), anyone, address(this));
        VotingRules memory rules = VotingRules({
            votingDelay: 1 seconds,
            votingPeriod: 10 seconds,
            proposalThreshold: 1e18,
            quorumPercent: 4,
            lateQuorumExtension: 5 seconds
        });
        governor = new MarketGovernor(token, timelock, rules);
        access = new AccessManager(address(this));
    }

    function _deployMarket() private {
        vault = new PaymentVault(usd, THAW);
        parameters = newParameters();
        datasets = new DatasetRegistry(address(access));
        adapters = new AdapterRegistry(datasets, parameters);
        generation = _deployGeneration();
        (operators, settlement, disputes) = (generation.operators(), generation.settlement(), generation.disputes());
        prover = IDisputes(address(new Prover(disputes)));
    }

    function newParameters() internal virtual returns (Parameters) {
        return new LocalParameters(address(access), Profile.Local, vault, firstSet());
    }

    /// @dev Each contract receives the precomputed addresses of those that this contract creates next.
    function _deployGeneration() internal returns (Generation) {
        uint64 nonce = vm.getNonce(address(this));
        address settlementAt = vm.computeCreateAddress(address(this), nonce + 1);
        address disputesAt = vm.computeCreateAddress(address(this), nonce + 2);
        OperatorRegistry registry = new OperatorRegistry(usd, settlementAt);
        Settlement collectorOf = new Settlement(parameters, registry, disputesAt);
        bytes memory arguments = abi.encode(collectorOf, registry, adapters);
        return new Generation(IDisputes(deployArtifact("contracts/Disputes.sol:Disputes", arguments)), adapters);
    }

    function _assignRoles() private {
        bytes4[] memory selector = new bytes4[](1);
        selector[0] = Parameters.pauseCommits.selector;
        access.setTargetFunctionRole(address(parameters), selector, Roles.GUARDIAN);
        selector[0] = DatasetRegistry.review.selector;
        access.setTargetFunctionRole(address(datasets), selector, Roles.CURATOR);
        access.grantRole(Roles.GUARDIAN, guardian, 0);
        access.grantRole(Roles.CURATOR, curator, 0);
        timelock.grantRole(timelock.PROPOSER_ROLE(), address(governor));
        timelock.grantRole(timelock.CANCELLER_ROLE(), address(governor));
    }

    /// @dev Removes all rights of the deployer.
    function _handOver() private {
        access.grantRole(access.ADMIN_ROLE(), address(timelock), 0);
        access.renounceRole(access.ADMIN_ROLE(), address(this));
        timelock.renounceRole(timelock.DEFAULT_ADMIN_ROLE(), address(this));
    }
}
