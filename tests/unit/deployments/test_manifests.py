"""Images, Compose file and chart: what this project requires. `make manifests` validates their formats."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.cli.operator.daemons import FINISH_SECONDS
from backend.installation.readiness import KEPT_SECONDS, PART_SECONDS
from backend.services.answers.generate import GenerateLimits
from backend.settings import BaseEntry, Settings
from inference.server.server import DRAIN_SECONDS
from tests.support.images import Dockerfile

ROOT = Path(__file__).parents[3]
DEPLOYMENTS = ROOT / "deployments"
SETTINGS = {f"LORALEDGER_{name.upper()}" for name in Settings.model_fields}
OURS = re.compile(r"LORALEDGER_[A-Z0-9_]+")
NO_SETTINGS = {"LORALEDGER_VERSION"}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "compose" / "compose.yaml").read_text())
DOCKERFILE = Dockerfile(DEPLOYMENTS / "images" / "Dockerfile")
VALUES: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "chart" / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((DEPLOYMENTS / "chart" / "values.schema.json").read_text())
PROCESSES = {"serve", "index", "send", "settle", "relay", "watch", "engine", "worker", "gradients"}


def own_services() -> dict[str, Any]:
    return {
        name: each for name, each in COMPOSE["services"].items() if each["image"].startswith("loraledger-")
    }


def test_the_chart_waits_for_readiness_longer_than_a_part_may_take() -> None:
    template = (DEPLOYMENTS / "chart" / "templates" / "statefulset.yaml").read_text()
    (seconds,) = re.findall(r"path: /ready,.*\n.*\n +timeoutSeconds: (\d+)", template)
    assert int(seconds) > PART_SECONDS + KEPT_SECONDS


def test_engines_may_finish_the_answers_that_a_stopping_api_still_charges() -> None:
    charged = FINISH_SECONDS + GenerateLimits(answer_seconds=1).close_seconds
    template = (DEPLOYMENTS / "chart" / "templates" / "statefulset.yaml").read_text()
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", template)
    assert charged < DRAIN_SECONDS < int(grace)
    for name, each in own_services().items():
        assert each["stop_grace_period"] == f"{grace}s", name
    assert "engine" in COMPOSE["services"]["api"]["depends_on"], "Compose stops dependents first"


def test_services_of_the_namespace_set_no_variables_in_the_chart_s_pod() -> None:
    """A Service named loraledger would set LORALEDGER_PORT, which is no setting: no process would start."""
    template = (DEPLOYMENTS / "chart" / "templates" / "statefulset.yaml").read_text()
    assert re.search(r"^ {6}enableServiceLinks: false\b", template, re.MULTILINE)


@pytest.mark.parametrize("folder", ["compose", "images", "chart"])
def test_only_settings_that_exist_are_named(folder: str) -> None:
    texts = [path.read_text() for path in (DEPLOYMENTS / folder).rglob("*") if path.is_file()]
    assert set(OURS.findall("".join(texts))) <= SETTINGS | NO_SETTINGS


def test_compose_runs_every_process_of_an_installation_once() -> None:
    """The watcher's output has the format of the image's log."""
    assert "LORALEDGER_LOG_FORMAT=json" in DOCKERFILE.last("server", "ENV")
    commands = {name: each["command"] for name, each in own_services().items() if "-" not in name}
    assert commands.pop("watch") == ["watch", "--json"]
    assert sorted(commands.values()) == sorted([process] for process in PROCESSES - {"watch"})


def test_further_engines_and_gradient_processes_of_compose_have_their_own_number_and_socket() -> None:
    services = own_services()
    settings = Settings(bases=(BaseEntry(model="a"), BaseEntry(model="b")))
    second = settings.served[1]
    for name, option, socket in (
        ("engine-2", "--replica", second.sockets[2]),
        ("gradients-2", "--base", second.gradients_socket),
    ):
        kind = name.partition("-")[0]
        assert services[name]["command"] == [kind, option, "2"]
        assert services[name]["image"] == services[kind]["image"]
        assert f"'run/{socket.name}'" in services[name]["healthcheck"]["test"][-1]


def test_only_gradient_processes_and_further_engines_wait_until_they_are_asked_for() -> None:
    optional = {name: each["profiles"] for name, each in own_services().items() if "profiles" in each}
    assert optional == {name: [name] for name in ("gradients", "engine-2", "gradients-2")}
    assert VALUES["gradients"] is False
    assert (VALUES["engineReplicas"], VALUES["bases"]) == (1, [])


def test_the_chart_takes_base_models_as_the_setting_does() -> None:
    bases = SCHEMA["properties"]["bases"]
    assert bases["items"]["properties"].keys() == BaseEntry.model_fields.keys()
    assert bases["items"]["required"] == [
        name for name, field in BaseEntry.model_fields.items() if field.is_required()
    ]
    limits = Settings.model_json_schema()
    assert bases["maxItems"] == limits["properties"]["bases"]["maxItems"]
    for given, setting in (
        (bases["items"]["properties"]["replicas"], limits["$defs"]["BaseEntry"]["properties"]["replicas"]),
        (SCHEMA["properties"]["engineReplicas"], limits["properties"]["engine_replicas"]),
    ):
        assert [given["minimum"], given["maximum"]] == [setting["minimum"], setting["maximum"]]


def test_the_chart_s_schema_has_each_of_its_values() -> None:
    assert SCHEMA["properties"].keys() == VALUES.keys() | {"global"}
    for name, value in VALUES.items():
        if value and isinstance(value, dict):
            assert SCHEMA["properties"][name]["properties"].keys() == value.keys()
    assert SCHEMA["properties"]["processes"]["items"]["enum"] == VALUES["processes"]


def test_processes_in_compose_cannot_write_outside_their_volume_or_gain_rights() -> None:
    for name, each in own_services().items():
        assert each["read_only"], name
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert {"privileged", "user", "network_mode"} & each.keys() == set(), name


def test_files_that_compose_mounts_exist() -> None:
    written_by_its_user = {"./deployment.json", "./secrets/keystore-password", "./secrets/metrics-token"}
    mounts = {
        volume.split(":")[0]
        for each in COMPOSE["services"].values()
        for volume in each.get("volumes", ())
        if volume.startswith(".")
    }
    mounts |= {secret["file"] for secret in COMPOSE["secrets"].values()}
    missing = {mount for mount in mounts if not (DEPLOYMENTS / "compose" / mount).exists()}
    assert missing == written_by_its_user
    assert (DEPLOYMENTS / "compose" / "loraledger.example.env").is_file()


def test_the_guides_passwords_may_stand_in_urls(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "containers.md").read_text()
    (commands,) = [
        block for block in re.findall(r"   ```console\n(.+?)```", guide, re.DOTALL) if ".env" in block
    ]
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True)
    passwords = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    text = (DEPLOYMENTS / "compose" / "compose.yaml").read_text()
    assert passwords.keys() == set(re.findall(r"\$\{(\w+_PASSWORD):", text))
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in passwords.values())


def test_secrets_are_in_no_file_of_the_repository() -> None:
    text = (DEPLOYMENTS / "compose" / "compose.yaml").read_text()
    for line in re.findall(r".*PASS(?:WORD)?: .*|.*_URL: .*", text):
        assert "${" in line or "PASSWORD_FILE" in line, line


def test_what_the_guide_writes_is_neither_committed_nor_copied_into_images() -> None:
    compose = [".env", "loraledger.env", "deployment.json", "secrets/keystore-password"]
    backups = ["home.tar", "kubo.tar", "loraledger.dump"]
    secrets = ["keystore-password", "secret.env", "pg_service.conf", "values.yaml", *backups]
    written = [f"deployments/compose/{name}" for name in (*compose, *backups)] + secrets
    done = subprocess.run(
        ["git", "check-ignore", *written], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == written
    context = (DEPLOYMENTS / "images" / "Dockerfile.dockerignore").read_text().splitlines()
    assert context[0] == "*"
    assert context.index("!deployments") < context.index("deployments/*")
    again = {line for line in context if line.startswith("!deployments/")}
    assert again == {"!deployments/README.md", "!deployments/*.json"}


def test_images_run_as_a_user_without_rights() -> None:
    for target in ("server", "engine", "worker"):
        assert DOCKERFILE.last(target, "USER") == "10001:10001"
        assert DOCKERFILE.last(target, "ENTRYPOINT") == '["loraledger"]'
        assert DOCKERFILE.last(target, "HEALTHCHECK")
    assert DOCKERFILE.last("server", "COPY") == "--from=server-packages /opt/loraledger /opt/loraledger"


def test_the_server_s_image_has_no_torch_and_the_others_have() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = {stage: set(DOCKERFILE.extras(stage)) for stage in ("server-packages", "engine-packages")}
    assert set.union(*installed.values()) <= extras.keys()
    assert "operator" not in installed["server-packages"]
    assert {"server", "postgres"} <= installed["server-packages"]
    assert "operator" in installed["engine-packages"]


def test_the_chart_names_the_images_commands_and_version_of_this_project() -> None:
    chart = yaml.safe_load((DEPLOYMENTS / "chart" / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["appVersion"] == version
    assert set(VALUES["processes"]) - {"api"} | {"serve", "engine", "gradients"} == PROCESSES
    named = {VALUES["images"][name] for name in ("server", "engine", "worker")}
    assert named == {each["image"].partition(":")[0] for each in own_services().values()}


@pytest.mark.deep
@pytest.mark.timeout(600)
class TestFormats:
    """The same check as `make manifests`, on these files and on broken copies of them."""

    def check(self, folder: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.manifests", str(folder)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def test_they_are_valid(self) -> None:
        done = self.check(DEPLOYMENTS)
        assert done.returncode == 0, done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("file", "old", "new", "fault"),
        [
            ("images/Dockerfile", "apt-get install --yes", "sudo apt-get install --yes", "DL3004"),
            ("compose/compose.yaml", "    init: true", "    ini: 1", "compose.yaml"),
            ("compose/compose.yaml", "  restart: unless-stopped", "  restart: sometimes", "compose.yaml"),
            ("compose/compose.yaml", "volumes:\n  home:\n", "volumes:\n  away:\n", "compose.yaml"),
            ("chart/templates/statefulset.yaml", "serviceName:", "serviceNam:", "statefulset.yaml"),
            (
                "chart/templates/statefulset.yaml",
                "enableServiceLinks: false",
                "enableServiceLinks: true",
                "enableServiceLinks",
            ),
            ("chart/templates/service.yaml", "{{ .Values.service.port }}", "http", "service.yaml"),
            (
                "chart/templates/_helpers.tpl",
                '{{ required "settingsSecret',
                '{{ default "any',
                "settingsSecret",
            ),
            ("chart/templates/statefulset.yaml", ' "--json"', "", "'watch': ['watch']"),
            ("chart/templates/_helpers.tpl", "if not .urls", "if true", "engine-4"),
            ("chart/templates/_helpers.tpl", "(toJson .Values.bases)", '"[]"', "LORALEDGER_BASES"),
            ("chart/values.schema.json", '"replicas":', '"replica":', "'replicas' not allowed"),
            ("compose/compose.yaml", "profiles: [engine-2]", "profiles: engine-2", "compose.yaml"),
        ],
    )
    def test_a_fault_is_found(self, tmp_path: Path, file: str, old: str, new: str, fault: str) -> None:
        shutil.copytree(DEPLOYMENTS, tmp_path / "deployments")
        path = tmp_path / "deployments" / file
        text = path.read_text()
        assert old in text or old.strip() in text
        path.write_text(
            text.replace(old if old in text else old.strip(), new if old in text else new.strip())
        )
        done = self.check(tmp_path / "deployments")
        assert done.returncode == 1
        assert fault in done.stdout
