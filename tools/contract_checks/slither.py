"""Runs Slither over contracts/ and fails on any finding that slither.json does not exempt.

It also fails on an exemption without a finding. An entry of slither.json is {"detector", "where", "reason"}:
`where` lists the first elements of findings as `Contract.function` or `Contract.variable`, never a line; "*"
exempts all findings of a detector that does not apply here.
"""

import json
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tools.contract_checks.common import BUILD, HERE, ROOT, Clock, compile_contracts, fail, isolated, tool

EXEMPTIONS = HERE / "slither.json"
EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Finding:
    detector: str
    impact: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Exemption:
    detector: str
    where: str

    def covers(self, finding: Finding) -> bool:
        return self.detector == finding.detector and self.where in (EVERYWHERE, finding.where)


def findings() -> list[Finding]:
    """Run Slither and return all findings that concern a file in contracts/."""
    report = BUILD / "slither" / "report.json"
    compile_contracts("build-info", BUILD / "slither" / "build-info", "contracts")
    report.unlink(missing_ok=True)
    programs = tool("slither")
    command = [str(programs / "slither"), ".", "--hardhat-ignore-compile", "--npx-disable", "--fail-none"]
    # Slither's --filter-paths also drops findings in contracts/ that touch a dependency, so filter here.
    command += ["--hardhat-artifacts-directory", str(BUILD / "slither"), "--json", str(report)]
    done = subprocess.run(
        command, cwd=ROOT, env=isolated(programs), check=False, capture_output=True, text=True
    )
    if done.returncode != 0 or not report.exists():
        fail(f"slither: Slither failed (status {done.returncode}):\n{done.stderr[-4000:]}")
    listed = json.loads(report.read_text())["results"].get("detectors", [])
    return [_finding(each) for each in listed if any(map(_is_ours, each["elements"]))]


def _is_ours(element: dict[str, Any]) -> bool:
    name: str = element["source_mapping"]["filename_relative"]
    return name.startswith("contracts/")


def _finding(detected: dict[str, Any]) -> Finding:
    first = next(filter(_is_ours, detected["elements"]))
    return Finding(detected["check"], detected["impact"], _where(first), detected["description"].strip())


def _where(element: dict[str, Any]) -> str:
    parent = element.get("type_specific_fields", {}).get("parent")
    name: str = element["name"]
    return name if parent is None or parent["type"] == "file" else f"{_where(parent)}.{name}"


def exemptions() -> list[Exemption]:
    entries = json.loads(EXEMPTIONS.read_text())
    without = [entry for entry in entries if not entry.get("reason", "").strip()]
    if without:
        fail(f"{EXEMPTIONS.relative_to(ROOT)}: entries without a reason: {without}")
    return [Exemption(entry["detector"], where) for entry in entries for where in entry["where"]]


def main() -> None:
    clock = Clock()
    (found, exempt) = (findings(), exemptions())
    open_ones = [each for each in found if not any(one.covers(each) for one in exempt)]
    stale = [one for one in exempt if not any(one.covers(each) for each in found)]
    impacts = ", ".join(
        f"{count} {impact}" for impact, count in sorted(Counter(each.impact for each in found).items())
    )
    print(f"slither: {len(found)} findings in contracts/ ({impacts}), {len(exempt)} exemptions, {clock}")
    for finding in open_ones:
        print(f"\n[{finding.impact}] {finding.detector} at {finding.where}\n{finding.text}")
    for exemption in stale:
        print(f"\nno finding matches the exemption of {exemption.detector} at {exemption.where}")
    if open_ones or stale:
        fail(f"slither: {len(open_ones)} findings without exemption, {len(stale)} exemptions without finding")
    print("slither: clean")


if __name__ == "__main__":
    main()
