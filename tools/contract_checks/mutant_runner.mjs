// Tests mutants of the contracts in sequence. It reads one JSON object per line, {file, text, tests}, and writes one,
// {outcome, by, seconds}. The first line of output is the result of the unchanged contracts, which must pass.
//
// This process compiles the sources without the optimizer and runs the tests on Hardhat's engine, so that a mutant takes
// seconds. `tests` lists all test files, the most likely to fail first. They run in stages: the first few, then the
// next ones if those pass, and finally all with more fuzzing.
import { createInterface } from "node:readline";
import {
  CollectStackTraces,
  EdrContext,
  FsAccessPermission,
  l1HardforkLatest,
  l1HardforkToString,
  l1SolidityTestRunnerFactory,
  L1_CHAIN_TYPE,
} from "@nomicfoundation/edr";
import { closure, compile, inputFor, root, solidityIn } from "./solc.mjs";

const QUICK = { fuzz: 16, runs: 2, depth: 16 };
// Below the depth at which the invariants require a number of moves, which few runs may not reach.
const THOROUGH = { fuzz: 64, runs: 16, depth: 24 };
/** Number of test files of the first stages; the last stage runs the rest. */
const STAGES = [3, 9];
// A mutant with an infinite loop runs out of gas.
const GAS_LIMIT = 3_000_000_000n;
/** Sources of the contracts that tests deploy by name; see `deployArtifact` in tests/contracts/support/Base.sol. */
const DEPLOYED = ["contracts/Disputes.sol"];
const tests = solidityIn("tests/contracts").filter((file) => file.endsWith(".t.sol"));

function configOf({ fuzz, runs, depth }) {
  return {
    projectRoot: root,
    hardfork: l1HardforkToString(l1HardforkLatest()),
    gasLimit: GAS_LIMIT,
    disableBlockGasLimit: true,
    disableTransactionGasCap: true,
    collectStackTraces: CollectStackTraces.OnFailure,
    fsPermissions: [{ access: FsAccessPermission.ReadDirectory, path: "tests/vectors" }],
    fuzz: { runs: fuzz, seed: "0x6c6f72616c6564676572" },
    invariant: { runs, depth, failOnRevert: true, shrinkRunLimit: 0 },
    // Compares the code of the tests with what is deployed, which is optimised.
    excludeTestPattern: "test_finding11",
  };
}

/** Compiles the given test files with one source replaced; returns their artefacts and those of `DEPLOYED`. */
function build(files, replaced) {
  const roots = [...files, ...DEPLOYED];
  const wanted = Object.fromEntries(
    roots.map((file) => [file, { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] }]),
  );
  const input = inputFor(closure(roots, replaced), wanted);
  // Without this, every changed comment would change the code.
  input.settings.metadata = { appendCBOR: false };
  const { contracts } = compile(input);
  return roots.flatMap((source) =>
    Object.entries(contracts[source] ?? {}).map(([name, { abi, evm }]) => ({
      id: { name, source, solcVersion: "0.8.34" },
      contract: {
        abi: JSON.stringify(abi),
        bytecode: `0x${evm.bytecode.object}`,
        deployedBytecode: `0x${evm.deployedBytecode.object}`,
        linkReferences: {},
        deployedLinkReferences: {},
      },
    })),
  );
}

function isSuite({ contract }) {
  const isTest = ({ type, name }) => type === "function" && /^(test|invariant)/.test(name);
  return contract.bytecode !== "0x" && JSON.parse(contract.abi).some(isTest);
}

/** Returns the first failing test as `file:contract.test reason`; undefined if all pass. */
async function failing(context, artifacts, fuzzing) {
  const config = configOf(fuzzing);
  for (const { id } of artifacts.filter(isSuite)) {
    // The results may arrive after the run has returned.
    const { testResults } = await new Promise((resolve, reject) => {
      context.runSolidityTests(L1_CHAIN_TYPE, artifacts, [id], config, {}, resolve).catch(reject);
    });
    const failed = testResults.find(({ status }) => status === "Failure");
    if (failed !== undefined) return `${id.source}:${id.name}.${failed.name} ${failed.reason ?? ""}`.trim();
  }
  return undefined;
}

const codeOf = ({ id, contract }) => [`${id.source}:${id.name}`, contract.bytecode];
const isUnchanged = (artifacts, baseline) => artifacts.map(codeOf).every(([name, code]) => baseline.get(name) === code);

async function tryMutant(context, baseline, { file, text, tests: order }) {
  const ends = [...STAGES.map((_, i) => STAGES.slice(0, i + 1).reduce((x, y) => x + y)), order.length];
  const artifacts = new Map();
  for (const [i, end] of ends.entries()) {
    let added;
    try {
      added = build(order.slice(ends[i - 1] ?? 0, end), { [file]: text });
    } catch (error) {
      return { outcome: "invalid", by: error.message.split("\n")[0] };
    }
    added.forEach((each) => artifacts.set(codeOf(each)[0], each));
    const by = isUnchanged(added, baseline) ? undefined : await failing(context, added, QUICK);
    if (by !== undefined) return { outcome: "killed", by };
  }
  const all = [...artifacts.values()];
  if (isUnchanged(all, baseline)) return { outcome: "same", by: null };
  const by = await failing(context, all, THOROUGH);
  return by === undefined ? { outcome: "survived", by: null } : { outcome: "killed", by };
}

const context = new EdrContext();
await context.registerSolidityTestRunnerFactory(L1_CHAIN_TYPE, l1SolidityTestRunnerFactory());
process.chdir(root);
const original = build(tests, {});
const baseline = new Map(original.map(codeOf));
// Only the first worker needs this test.
const broken = process.argv[2] === "--trust" ? undefined : await failing(context, original, THOROUGH);
console.log(JSON.stringify({ outcome: broken === undefined ? "passed" : "failed", by: broken ?? null }));

for await (const line of createInterface({ input: process.stdin })) {
  const start = performance.now();
  let result;
  try {
    result = await tryMutant(context, baseline, JSON.parse(line));
  } catch (error) {
    result = { outcome: "error", by: error.message };
  }
  console.log(JSON.stringify({ ...result, seconds: Math.round(performance.now() - start) / 1000 }));
}
