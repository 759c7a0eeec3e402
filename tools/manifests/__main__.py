"""Installs the programs of `check.py` in an environment of their own, and runs it on a folder."""

import subprocess
import sys
from pathlib import Path

from tools.contract_checks.common import ROOT, isolated, tool

HERE = Path(__file__).resolve().parent


def main() -> None:
    programs = tool("manifests", HERE)
    deployments = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "deployments")
    command = [str(programs / "python"), str(HERE / "check.py"), deployments]
    sys.exit(subprocess.run(command, env=isolated(programs), check=False).returncode)


if __name__ == "__main__":
    main()
