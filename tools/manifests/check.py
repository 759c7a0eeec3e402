"""Checks the files by which an installation is deployed, without Docker and without a cluster.

It runs in an environment of its own, with programs that the project does not need otherwise: hadolint lints
the Dockerfile, the Compose file is parsed by its specification, Helm renders the chart, and each object is
validated by the schemas of Kubernetes. The argument is the folder `deployments`. Exit status 1 with faults.
"""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import compose_spec
import helm_python
import kubernetes_validate
import yaml

KUBERNETES = ("1.33", "1.37")
"""The oldest and the newest minor version whose schemas are checked."""
REQUIRED = {"deployment": "{}", "settingsSecret": "settings", "keystoreSecret": "keystore"}
SETTINGS = {"LORALEDGER_PUBLIC_URL": "https://market.example"}
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
    variants = (
        {},
        {
            "settings": SETTINGS,
            "processes": ["index"],
            "gradients": True,
            "home": {"size": "1Gi", "storageClassName": "fast"},
        },
    )
    for values, version in itertools.product(variants, KUBERNETES):
        for name, text in render(folder, REQUIRED | values).items():
            for document in filter(None, yaml.safe_load_all(text)):
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    faults.append(f"{name} on Kubernetes {version}: {error.message}")
    for name in REQUIRED:
        try:
            render(folder, {key: value for key, value in REQUIRED.items() if key != name})
        except helm_python.HelmError as error:
            if f"{name}:" not in str(error):
                faults.append(f"chart: without {name} the error does not name it: {error}")
        else:
            faults.append(f"chart: it renders without {name}")
    return faults


def render(folder: Path, values: dict[str, object]) -> dict[str, str]:
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
