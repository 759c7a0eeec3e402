// Writes what the backend needs of the built contracts, one file per contract: its ABI to backend/chain/abi, and its code to
// backend/deployment/compiled, so that a deployment needs no compiler.
// With --check it writes nothing and fails if a committed file differs from the build.
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const artifacts = "build/artifacts";
const abis = "backend/chain/abi";
const builds = "backend/deployment/compiled";
const openzeppelin = "@openzeppelin/contracts";

const contracts = {
  AccessManager: `${openzeppelin}/access/manager/AccessManager.sol`,
  AdapterRegistry: "contracts/AdapterRegistry.sol",
  DatasetRegistry: "contracts/DatasetRegistry.sol",
  Disputes: "contracts/Disputes.sol",
  Generation: "contracts/Generation.sol",
  MarketGovernor: "contracts/MarketGovernor.sol",
  MarketToken: "contracts/MarketToken.sol",
  OperatorRegistry: "contracts/OperatorRegistry.sol",
  Parameters: "contracts/Parameters.sol",
  PaymentVault: "contracts/PaymentVault.sol",
  Settlement: "contracts/Settlement.sol",
  TestUSD: "contracts/local/TestUSD.sol",
  TimelockController: `${openzeppelin}/governance/TimelockController.sol`,
};
// Deployed in place of another contract, whose ABI it has.
const variants = { LocalParameters: "contracts/local/LocalParameters.sol" };

function artifactOf(name, source) {
  const path = join(artifacts, source, `${name}.json`);
  if (!existsSync(path)) {
    throw new Error(`${path} is missing: run \`make contracts\``);
  }
  return JSON.parse(readFileSync(path, "utf8"));
}

function abiOf(artifact) {
  return `${JSON.stringify(artifact.abi, null, 2)}\n`;
}

function buildOf(artifact) {
  const immutables = Object.values(artifact.immutableReferences)
    .flat()
    .map(({ start, length }) => [start, length])
    .sort(([one], [other]) => one - other);
  const code = { creation: artifact.bytecode.slice(2), runtime: artifact.deployedBytecode.slice(2), immutables };
  return `${JSON.stringify(code)}\n`;
}

function expectedFiles() {
  const files = new Map();
  for (const [name, source] of Object.entries({ ...contracts, ...variants })) {
    const artifact = artifactOf(name, source);
    if (name in contracts) files.set(join(abis, `${name}.json`), abiOf(artifact));
    files.set(join(builds, `${name}.json`), buildOf(artifact));
  }
  return files;
}

function differences(files) {
  const committed = [abis, builds].flatMap((folder) => readdirSync(folder).map((file) => join(folder, file)));
  const stray = committed.filter((path) => path.endsWith(".json") && !files.has(path)).map((path) => `${path}: no such contract`);
  const stale = [...files]
    .filter(([path, content]) => !existsSync(path) || readFileSync(path, "utf8") !== content)
    .map(([path]) => `${path}: differs from the contract`);
  return [...stray, ...stale];
}

const files = expectedFiles();
if (process.argv.includes("--check")) {
  const lines = differences(files);
  if (lines.length > 0) {
    console.error(`${lines.join("\n")}\nRun tools/export_contracts.mjs and commit the result.`);
    process.exit(1);
  }
} else {
  for (const [path, content] of files) {
    writeFileSync(path, content);
  }
}
