"""Audits the locked dependencies for known vulnerabilities: PyPI with pip-audit, npm with `npm audit`.

A registry that does not answer is reported as "not audited" and fails the audit. `docs/operating.md`,
*Dependencies*, says when the audit runs. Advisories that do not affect the project are listed in
`accepted_advisories.json` as {"id", "reason", "until"}; after the date `until` they must be reviewed again.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tools"
PYTHON_LOCK, NPM_LOCK = "requirements.lock", "package-lock.json"
ACCEPTED = HERE / "accepted_advisories.json"
UNPINNED = ("torch",)
"""Packages without a pin in the lock file: the installed version is audited."""


class NotAudited(Exception):
    """The registry did not answer, so the audit has no result."""


@dataclass(frozen=True, slots=True)
class Advisory:
    package: str
    id: str
    text: str


def python_advisories(report: str, errors: str) -> list[Advisory]:
    """Parse pip-audit's JSON. Its exit status is 1 for findings and for failures, so it is not used."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        raise NotAudited(f"PyPI returned no advisories:\n{errors.strip()[-2000:]}") from None
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    if unknown or not packages:
        some = ", ".join(unknown[:5])
        raise NotAudited(f"PyPI has no advisories of {len(unknown)} of {len(packages)} packages: {some}, ...")
    return [
        Advisory(each["name"], found["id"], f"{each['version']}, fixed in {found['fix_versions']}")
        for each in packages
        for found in each["vulns"]
    ]


def npm_advisories(report: str, errors: str) -> list[Advisory]:
    """Parse the JSON of `npm audit`: one item per advisory and affected package."""
    try:
        packages = json.loads(report)["vulnerabilities"]
    except (ValueError, KeyError):
        text = (errors or report).strip()[-2000:]
        raise NotAudited(f"the npm registry returned no advisories:\n{text}") from None
    return [
        Advisory(via["name"], via["url"].rpartition("/")[2], f"{via['severity']}: {via['title']}")
        for each in packages.values()
        for via in each["via"]
        if isinstance(via, dict)
    ]


def list_problems(found: Sequence[Advisory], accepted: Sequence[Mapping[str, str]], today: date) -> list[str]:
    """Advisories that are not accepted, and acceptances that have expired."""
    valid = {each["id"] for each in accepted if date.fromisoformat(each["until"]) >= today}
    problems = [f"{a.package}: {a.id} ({a.text})" for a in found if a.id not in valid]
    expired = [each["id"] for each in accepted if each["id"] not in valid]
    return problems + [f"{name}: its acceptance has expired, review it" for name in expired]


def ask_pypi() -> list[Advisory]:
    programs = _pip_audit()
    wanted = programs.parent / "wanted.txt"
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in UNPINNED]
    wanted.write_text((ROOT / PYTHON_LOCK).read_text() + "\n".join(pins) + "\n")
    command = [str(programs / "pip-audit"), "-r", str(wanted), "--no-deps", "--disable-pip"]
    done = _run([*command, "--format", "json", "--progress-spinner", "off"])
    return python_advisories(done.stdout, done.stderr)


def ask_npm() -> list[Advisory]:
    done = _run(["npm", "audit", "--json", "--package-lock-only"])
    return npm_advisories(done.stdout, done.stderr)


def main() -> None:
    """Exit status: 0 no vulnerabilities, 1 vulnerabilities found, 2 a registry did not answer."""
    status = 0
    for name, ask in ((PYTHON_LOCK, ask_pypi), (NPM_LOCK, ask_npm)):
        try:
            problems = list_problems(ask(), json.loads(ACCEPTED.read_text()), _today())
        except NotAudited as error:
            print(f"{name}: NOT AUDITED. {error}", file=sys.stderr)
            status = status or 2
            continue
        if problems:
            print(f"{name}:", *problems, sep="\n  ", file=sys.stderr)
            status = 1
            continue
        print(f"{name}: no known vulnerability")
    sys.exit(status)


def _today() -> date:
    return datetime.now(UTC).date()


def _pip_audit() -> Path:
    """The bin folder of pip-audit's virtual environment, which is separate from the project's."""
    folder, lock = ROOT / "build" / "audit", HERE / "dependency_audit.lock"
    stamp = folder / "installed.lock"
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        print(f"pip-audit: Python packages into {folder.relative_to(ROOT)}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        done = _run([*pip, "--no-deps", "-r", str(lock)])
        if done.returncode:
            raise NotAudited(f"pip-audit cannot be installed:\n{done.stderr.strip()[-2000:]}")
        stamp.write_text(lock.read_text())
    return folder / "bin"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise NotAudited(f"{command[0]} is not installed") from None


if __name__ == "__main__":
    main()
