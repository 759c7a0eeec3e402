import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

// The compiler is the WebAssembly build from npm: nothing is downloaded when contracts are built.
const compiler = (runs) => ({
  version: "0.8.34",
  path: require.resolve("solc/soljson.js"),
  settings: { evmVersion: "cancun", optimizer: { enabled: true, runs } },
});

/** @type {import("hardhat/config").HardhatUserConfig} */
export default {
  solidity: {
    compilers: [compiler(1_000_000)],
    // Proofs are rare and many: they must fit a contract (EIP-170) before they must be cheap.
    overrides: { "contracts/Disputes.sol": compiler(200) },
    splitTestsCompilation: true,
    // Deployed as they are.
    npmFilesToBuild: [
      "@openzeppelin/contracts/access/manager/AccessManager.sol",
      "@openzeppelin/contracts/governance/TimelockController.sol",
    ],
  },
  paths: {
    sources: "./contracts",
    tests: { solidity: "./tests/contracts" },
    artifacts: "./build/artifacts",
    cache: "./build/cache",
  },
  test: {
    solidity: {
      // Vectors are shared with the Python tests.
      fsPermissions: { readDirectory: ["tests/vectors"] },
      fuzz: { runs: Number(process.env.FUZZ_RUNS ?? 1000) },
      invariant: {
        runs: Number(process.env.INVARIANT_RUNS ?? 64),
        depth: Number(process.env.INVARIANT_DEPTH ?? 64),
        failOnRevert: true,
      },
    },
  },
  networks: {
    // The local chain behind `loraledger up`: blocks come at an interval, so that confirmations pass.
    node: {
      type: "edr-simulated",
      chainType: "l1",
      chainId: 31337,
      mining: { auto: true, interval: 1000 },
      // Else every transaction of a burst would push the chain a second further ahead of the clock, for good.
      allowBlocksWithSameTimestamp: true,
    },
  },
};
