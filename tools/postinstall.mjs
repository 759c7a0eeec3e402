// npm under Node < 22 skips Hardhat's native library, an optional dependency that requires Node >= 22.
// Run npm again under the Node that package.json installs, so that a plain `npm ci` works with any Node.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";

const agent = process.env.npm_config_user_agent ?? "";
const major = Number(/node\/v(\d+)/.exec(agent)?.[1] ?? process.versions.node.split(".")[0]);
const ownNode = "node_modules/node/bin/node";

if (major < 22 && !process.env.LORALEDGER_POSTINSTALL && existsSync(ownNode)) {
  execFileSync(
    ownNode,
    [process.env.npm_execpath, "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"],
    { stdio: "inherit", env: { ...process.env, LORALEDGER_POSTINSTALL: "1" } },
  );
}
