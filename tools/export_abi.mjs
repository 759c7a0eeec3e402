// Writes the ABIs of the deployed contracts from build/artifacts to backend/chain/abi, one JSON array per file.
// With --check it writes nothing and fails if a committed ABI differs from the built one.
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const artifacts = "build/artifacts";
const target = "backend/chain/abi";
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

function builtAbi(name, source) {
  const path = join(artifacts, source, `${name}.json`);
  if (!existsSync(path)) {
    throw new Error(`${path} is missing: run \`make setup\`, which builds the contracts`);
  }
  return `${JSON.stringify(JSON.parse(readFileSync(path, "utf8")).abi, null, 2)}\n`;
}

function drift() {
  const stray = readdirSync(target)
    .filter((file) => file.endsWith(".json") && !(file.slice(0, -".json".length) in contracts))
    .map((file) => `${file}: no such contract`);
  const stale = Object.entries(contracts)
    .filter(([name, source]) => {
      const path = join(target, `${name}.json`);
      return !existsSync(path) || readFileSync(path, "utf8") !== builtAbi(name, source);
    })
    .map(([name]) => `${name}.json: differs from the contract`);
  return [...stray, ...stale];
}

if (process.argv.includes("--check")) {
  const lines = drift();
  if (lines.length > 0) {
    console.error(`${lines.join("\n")}\nRun tools/export_abi.mjs and commit the result.`);
    process.exit(1);
  }
} else {
  for (const [name, source] of Object.entries(contracts)) {
    writeFileSync(join(target, `${name}.json`), builtAbi(name, source));
  }
}
