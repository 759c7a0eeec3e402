"""Checks the files by which an installation is deployed, without Docker and without a cluster.

It runs in an environment of its own, with programs that the project does not need otherwise: hadolint lints
the Dockerfile, the Compose file is parsed by its specification, Helm renders the chart, and each object is
validated by the schemas of Kubernetes. The argument is the folder `deployments`. Exit status 1 with faults.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compose_spec
import helm_python
import kubernetes_validate
import yaml

KUBERNETES = ("1.33", "1.37")
"""The oldest and the newest minor version whose schemas are checked."""
REQUIRED = {"deployment": "{}", "settingsSecret": "settings", "keystoreSecret": "keystore"}
SETTINGS = {"LORALEDGER_PUBLIC_URL": "https://market.example"}
BASES = [
    {"model": "owner/small", "replicas": 2, "prices": [200_000, 400_000]},
    {"model": "owner/remote", "urls": ["http://vllm:8001"]},
    {"model": "owner/large", "trains": False},
]


OTHERS = {
    "api": ["serve"],
    "worker": ["worker"],
    "index": ["index"],
    "send": ["send"],
    "settle": ["settle"],
    "relay": ["relay"],
    "watch": ["watch", "--json"],
}
"""Commands of the containers without a base model that the default values name."""


@dataclass(frozen=True)
class Variant:
    """Values that are added to the required ones, and what the chart renders from them. `commands`: those of
    the containers, by name. `settings`: those of all processes, with the bases as a list.
    """

    values: dict[str, Any]
    commands: dict[str, list[str]]
    settings: dict[str, Any]


VARIANTS = (
    Variant({}, OTHERS | {"engine": ["engine"]}, {}),
    Variant(
        {
            "settings": SETTINGS,
            "processes": ["index"],
            "gradients": True,
            "home": {"size": "1Gi", "storageClassName": "fast"},
        },
        {"index": ["index"], "engine": ["engine"], "gradients": ["gradients"]},
        SETTINGS,
    ),
    Variant(
        {"engineReplicas": 2, "engineOptions": ["--kv-budget-bytes", "1000"]},
        OTHERS
        | {
            "engine": ["engine", "--", "--kv-budget-bytes", "1000"],
            "engine-2": ["engine", "--replica", "2", "--", "--kv-budget-bytes", "1000"],
        },
        {"LORALEDGER_ENGINE_REPLICAS": "2"},
    ),
    Variant(
        {"bases": BASES, "gradients": True, "settings": SETTINGS},
        OTHERS
        | {
            "engine": ["engine"],
            "engine-2": ["engine", "--replica", "2"],
            "engine-3": ["engine", "--replica", "3"],
            "gradients": ["gradients"],
            "gradients-2": ["gradients", "--base", "2"],
            "gradients-3": ["gradients", "--base", "3"],
        },
        SETTINGS | {"LORALEDGER_BASES": BASES},
    ),
    Variant(
        {
            "settings": {"LORALEDGER_ENGINE_URLS": "http://vllm:8001"},
            "volumes": [{"name": "vllm", "persistentVolumeClaim": {"claimName": "vllm"}}],
            "volumeMounts": [{"name": "vllm", "mountPath": "/vllm"}],
        },
        OTHERS,
        {"LORALEDGER_ENGINE_URLS": "http://vllm:8001"},
    ),
)
REFUSED = (
    ({"processes": ["serve"]}, "/processes/0"),
    ({"bases": [{"model": "owner/small", "replica": 2}]}, "replica"),
    ({"bases": BASES, "settings": {"LORALEDGER_BASE_MODEL": "owner/small"}}, "LORALEDGER_BASE_MODEL"),
    ({"bases": BASES, "engineReplicas": 2}, "engineReplicas"),
    ({"settings": {"LORALEDGER_BASES": "[]"}}, "LORALEDGER_BASES"),
    ({"settings": {"LORALEDGER_CONFIRMATIONS": 5}}, "LORALEDGER_CONFIRMATIONS"),
)
"""Values that must not render, and what the error names."""
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def check_images(folder: Path) -> list[str]:
    """Lint the Dockerfile."""
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(program), "--no-color", "--failure-threshold", "warning", str(folder / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines() if done.returncode else []


def check_compose(folder: Path) -> list[str]:
    """Parse the Compose file by the specification, after its variables are replaced."""
    text = (folder / "compose.yaml").read_text()
    text = VARIABLE.sub(lambda found: found[3] if found[2] == "-" else "value", text)
    options = compose_spec.PyOptions(apply_merge=True)
    try:
        options.from_yaml(text).validate()
    except Exception as error:  # noqa: BLE001 - the library raises errors of many types
        return [f"compose.yaml: {error}"]
    return []


def check_chart(folder: Path) -> list[str]:
    """Lint the chart, and validate what it renders; without a required value it must not render."""
    faults = [
        f"chart: {message['path']}: {message['error']}"
        for message in helm_python.lint(str(folder), REQUIRED)["messages"]
        if message["severity"] > 1
    ]
    for variant in VARIANTS:
        try:
            rendered = render(folder, REQUIRED | variant.values)
        except helm_python.HelmError as error:
            faults.append(f"chart: it does not render with the values {variant.values}: {error}")
        else:
            faults += check_variant(variant, rendered)
    for name in REQUIRED:
        without = {key: value for key, value in REQUIRED.items() if key != name}
        faults += check_refused(folder, without, f"{name}:")
    for values, text in REFUSED:
        faults += check_refused(folder, REQUIRED | values, text)
    return faults


def check_variant(variant: Variant, rendered: dict[str, str]) -> list[str]:
    """Validate each object, and compare containers and settings with those that the values ask for."""
    faults, objects = [], []
    for name, text in rendered.items():
        found = list(filter(None, yaml.safe_load_all(text)))
        objects += found
        for document, version in itertools.product(found, KUBERNETES):
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                faults.append(f"{name} on Kubernetes {version}: {error.message}")
    (pod,) = (each["spec"]["template"]["spec"] for each in objects if each["kind"] == "StatefulSet")
    commands = {each["name"]: each["args"] for each in pod["containers"]}
    for what, given, expected in (
        ("commands", commands, variant.commands),
        ("settings", settings_of(objects), variant.settings),
    ):
        if given != expected:
            faults.append(f"chart: with the values {variant.values} the {what} are {given}, not {expected}")
    if pod.get("enableServiceLinks") is not False:
        faults.append("chart: enableServiceLinks must be false: variables of Services are unknown settings")
    return faults


def settings_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings of all processes."""
    maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    settings = dict(maps["market-settings"])
    if "LORALEDGER_BASES" in settings:
        settings["LORALEDGER_BASES"] = json.loads(settings["LORALEDGER_BASES"])
    return settings


def check_refused(folder: Path, values: dict[str, Any], text: str) -> list[str]:
    """These values must not render, and the error must contain the text."""
    try:
        render(folder, values)
    except helm_python.HelmError as error:
        return [] if text in str(error) else [f"chart: the error of {values} does not name {text}: {error}"]
    return [f"chart: it renders with the values {values}, without an error that names {text}"]


def render(folder: Path, values: dict[str, Any]) -> dict[str, str]:
    """Manifests by the names of their templates."""
    with helm_python.Chart.load(str(folder)) as chart:
        rendered = chart.render(values, name="market", namespace="default")
    return {name: text for name, text in rendered.items() if name.endswith(".yaml")}


def main() -> None:
    deployments = Path(sys.argv[1])
    faults = check_images(deployments / "images") + check_compose(deployments / "compose")
    faults += check_chart(deployments / "chart")
    print(*faults, sep=os.linesep, end="\n" if faults else "")
    if faults:
        sys.exit(1)
    print("Dockerfile, Compose file and chart are valid")


if __name__ == "__main__":
    main()
