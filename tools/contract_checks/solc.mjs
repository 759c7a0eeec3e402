// Compiles Solidity sources with the project's compiler outside Hardhat's build folder: the checks use other settings
// (no optimizer, syntax trees, mutated sources) and must not write to the folder from which contracts are deployed.
//
//   node tools/contract_checks/solc.mjs build-info OUT FOLDER...   for Slither: input and output in one file
//   node tools/contract_checks/solc.mjs forge OUT FOLDER...        for Halmos: one file per contract, in Forge's format
//   node tools/contract_checks/solc.mjs ast OUT FOLDER...          syntax trees as one JSON object: path -> tree
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const require = createRequire(path.join(root, "hardhat.config.js"));
const IMPORT = /^\s*import\s+(?:[^"';]*?from\s+)?["']([^"']+)["']/gm;

/** Returns every .sol file below a folder as a path from the root. */
export function solidityIn(folder) {
  return readdirSync(path.join(root, folder), { recursive: true })
    .filter((name) => name.endsWith(".sol"))
    .map((name) => path.posix.join(folder, name))
    .sort();
}

/** Returns the files and all their imports: path from the root -> text. `replaced` overrides files on disk. */
export function closure(files, replaced = {}) {
  const sources = {};
  const visit = (file) => {
    if (file in sources) return;
    sources[file] = replaced[file] ?? readFileSync(path.join(root, file), "utf8");
    for (const [, name] of sources[file].matchAll(IMPORT)) {
      visit(name.startsWith(".") ? path.posix.join(path.posix.dirname(file), name) : `node_modules/${name}`);
    }
  };
  files.forEach(visit);
  return sources;
}

/** Returns the standard JSON input for these sources; `selection` is the compiler's outputSelection. */
export function inputFor(sources, selection, optimizer = { enabled: false }) {
  return {
    language: "Solidity",
    sources: Object.fromEntries(Object.entries(sources).map(([file, content]) => [file, { content }])),
    settings: {
      evmVersion: "cancun",
      // Disabled by default: the optimizer takes three quarters of the time and does not change behaviour.
      optimizer,
      remappings: ["@openzeppelin/=node_modules/@openzeppelin/"],
      outputSelection: selection,
    },
  };
}

let compiler;
export function compilerVersion() {
  compiler ??= require("solc");
  return compiler.version();
}

/** Returns the compiler's output; throws an Error with its messages if the sources do not compile. */
export function compile(input) {
  compilerVersion();
  const output = JSON.parse(compiler.compile(JSON.stringify(input)));
  const errors = (output.errors ?? []).filter(({ severity }) => severity === "error");
  if (errors.length !== 0) throw new Error(errors.map(({ formattedMessage }) => formattedMessage).join("\n"));
  return output;
}

function writeBuildInfo(out, sources) {
  const input = inputFor(sources, { "*": { "*": ["abi", "evm.bytecode", "evm.deployedBytecode", "userdoc", "devdoc"], "": ["ast"] } });
  const output = compile(input);
  const solcVersion = compilerVersion().split("+")[0];
  writeFileSync(path.join(out, "contracts.json"), JSON.stringify({ solcVersion, input, output }));
}

function writeForge(out, sources) {
  const wanted = ["abi", "metadata", "storageLayout", "evm.bytecode", "evm.deployedBytecode", "evm.methodIdentifiers"];
  // Proofs apply to the deployed code, which is optimised.
  const optimizer = { enabled: true, runs: 10_000 };
  const output = compile(inputFor(sources, { "*": { "*": wanted, "": ["ast"] } }, optimizer));
  for (const [file, contracts] of Object.entries(output.contracts)) {
    const { ast, id } = output.sources[file];
    const folder = path.join(out, path.basename(file));
    for (const [name, { abi, metadata, storageLayout, evm }] of Object.entries(contracts)) {
      const hex = (code) => ({ ...code, object: `0x${code.object}` });
      const artifact = {
        abi,
        ast,
        id,
        storageLayout,
        metadata: JSON.parse(metadata),
        bytecode: hex(evm.bytecode),
        deployedBytecode: hex(evm.deployedBytecode),
        methodIdentifiers: evm.methodIdentifiers,
      };
      mkdirSync(folder, { recursive: true });
      writeFileSync(path.join(folder, `${name}.json`), JSON.stringify(artifact));
    }
  }
}

function writeTrees(out, sources) {
  const output = compile(inputFor(sources, { "*": { "": ["ast"] } }));
  const trees = Object.fromEntries(Object.entries(output.sources).map(([file, { ast }]) => [file, ast]));
  writeFileSync(path.join(out, "trees.json"), JSON.stringify(trees));
}

const writers = { "build-info": writeBuildInfo, forge: writeForge, ast: writeTrees };

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [format, out, ...folders] = process.argv.slice(2);
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  try {
    writers[format](out, closure(folders.flatMap(solidityIn)));
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
