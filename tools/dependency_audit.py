"""Asks the registries for known vulnerabilities of what the lock files pin: PyPI by pip-audit, npm by its own
audit. An answer that says nothing is no clean bill: it is told apart, and fails.

Who asks when: `docs/operating.md`, *Dependencies*.
An advisory that does not concern us is accepted in `accepted_advisories.json`: {"id", "reason", "until"}, the
last a date after which it is looked at again.
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
"""A range in the lock: what is installed is audited."""


class NotAudited(Exception):
    """The registry gave no answer, so nothing is known."""


@dataclass(frozen=True, slots=True)
class Advisory:
    package: str
    id: str
    text: str


def python_advisories(report: str, errors: str) -> list[Advisory]:
    """From pip-audit's JSON. It ends with 1 for findings and failures alike, so its status says nothing."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        raise NotAudited(f"PyPI gave no advisories:\n{errors.strip()[-2000:]}") from None
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    if unknown or not packages:
        some = ", ".join(unknown[:5])
        raise NotAudited(f"PyPI has no advisories of {len(unknown)} of {len(packages)} packages: {some}, ...")
    return [
        Advisory(each["name"], found["id"], f"{each['version']}, cured in {found['fix_versions']}")
        for each in packages
        for found in each["vulns"]
    ]


def npm_advisories(report: str, errors: str) -> list[Advisory]:
    """From npm's JSON, one an advisory and package that it is about."""
    try:
        packages = json.loads(report)["vulnerabilities"]
    except (ValueError, KeyError):
        text = (errors or report).strip()[-2000:]
        raise NotAudited(f"the npm registry gave no advisories:\n{text}") from None
    return [
        Advisory(via["name"], via["url"].rpartition("/")[2], f"{via['severity']}: {via['title']}")
        for each in packages.values()
        for via in each["via"]
        if isinstance(via, dict)
    ]


def judged(found: Sequence[Advisory], accepted: Sequence[Mapping[str, str]], today: date) -> list[str]:
    """What is wrong: advisories that nobody accepted, and acceptances that have run out."""
    known = {each["id"] for each in accepted if date.fromisoformat(each["until"]) >= today}
    wrong = [f"{a.package}: {a.id} ({a.text})" for a in found if a.id not in known]
    over = [each["id"] for each in accepted if each["id"] not in known]
    return wrong + [f"{name}: its acceptance has run out, look at it again" for name in over]


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
    """Exit status: 0 clean, 1 something was found, 2 a registry gave no answer."""
    status = 0
    for name, ask in ((PYTHON_LOCK, ask_pypi), (NPM_LOCK, ask_npm)):
        try:
            wrong = judged(ask(), json.loads(ACCEPTED.read_text()), _today())
        except NotAudited as error:
            print(f"{name}: NOT AUDITED. {error}", file=sys.stderr)
            status = status or 2
            continue
        if wrong:
            print(f"{name}:", *wrong, sep="\n  ", file=sys.stderr)
            status = 1
            continue
        print(f"{name}: no known vulnerability")
    sys.exit(status)


def _today() -> date:
    return datetime.now(UTC).date()


def _pip_audit() -> Path:
    """The folder of its programs, in an environment of its own: the project needs none of its packages."""
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
        raise NotAudited(f"there is no {command[0]} here") from None


if __name__ == "__main__":
    main()
