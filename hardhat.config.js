import { createRequire } from "node:module";
import local from "./backend/chain/hardhat.config.js";

const require = createRequire(import.meta.url);

// The compiler is the WebAssembly build from npm, so that a build downloads nothing.
const compiler = (runs) => ({
  version: "0.8.34",
  path: require.resolve("solc/soljson.js"),
  settings: { evmVersion: "cancun", optimizer: { enabled: true, runs } },
});

// Hides solc's warning of transient storage (2394) for OpenZeppelin's ReentrancyGuardTransient only: the guard clears its slot at the end
// of each call, a use that the warning itself calls safe. Our own contracts are still warned of.
const knownWarnings = {
  id: "known-warnings",
  hookHandlers: {
    solidity: async () => ({
      default: async () => ({
        getCompilationJobErrors: async (context, job, output, next) =>
          (await next(context, job, output)).filter(
            ({ errorCode, formattedMessage }) =>
              errorCode !== "2394" || !formattedMessage?.includes("@openzeppelin/contracts/utils/TransientSlot.sol:"),
          ),
      }),
    }),
  },
};

/** @type {import("hardhat/config").HardhatUserConfig} */
export default {
  plugins: [knownWarnings],
  solidity: {
    compilers: [compiler(1_000_000)],
    // Optimised for size: the proofs are many, must fit in one contract (EIP-170), and are rarely called.
    // Overrides apply to a source that is a root of the build, not to one that a test imports: tests deploy the built
    // artefact instead (`deployArtifact` in tests/contracts/support/Base.sol).
    overrides: { "contracts/Disputes.sol": compiler(200) },
    splitTestsCompilation: true,
    // Deployed unchanged.
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
      fuzz: { runs: Number(process.env.FUZZ_RUNS ?? 256) },
      invariant: {
        runs: Number(process.env.INVARIANT_RUNS ?? 64),
        depth: Number(process.env.INVARIANT_DEPTH ?? 64),
        failOnRevert: true,
      },
    },
  },
  networks: local.networks,
};
