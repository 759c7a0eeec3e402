"""Every program of docs/clients.md, with the clients as the package index has them."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inference.protocol import ToolCall
from inference.tool_calls import HERMES

if TYPE_CHECKING:
    from inference.protocol import Generate
    from tests.integration.api.conftest import Api
    from tests.support.scripted_installation import ScriptedInstallation

PAGE = Path("docs/clients.md")
SECTION = re.compile(r"^## \w+\n\n`pip install ([\w-]+)`.*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CLIENTS = Path("build/clients")
INSTALL_SECONDS, RUN_SECONDS = 900, 120


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter with the clients, whose dependencies exclude ours; needs the package index."""
    wanted = [package for package, _ in SECTION.findall(PAGE.read_text())]
    if not (CLIENTS / "bin/python").exists():
        venv.create(CLIENTS, with_pip=True)
    python = (CLIENTS / "bin/python").absolute()
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    subprocess.run(command, check=True, timeout=INSTALL_SECONDS)
    return python


def call_once(installation: ScriptedInstallation) -> None:
    """Calls a function that is offered, and answers with text once the request has its result."""
    generate = installation.engine.generate

    def generate_call(request: Generate) -> Any:
        if request.tools is None or request.messages[-1].role == "tool":
            installation.engine.words = ("It", " rains", ".")
        else:
            call = HERMES.render(ToolCall(request.tools.functions[0].name, '{"city": "Paris"}'))
            installation.engine.words = (call[:50], call[50:])
        return generate(request)

    installation.engine.generate = generate_call  # type: ignore[method-assign]


@pytest.mark.deep
@pytest.mark.timeout(INSTALL_SECONDS + 3 * RUN_SECONDS)
def test_every_program_runs(api: Api, python: Path, tmp_path: Path) -> None:
    call_once(api.installation)
    environment = {
        "BASE_URL": f"{api.url}/v1",
        "API_KEY": api.key,
        "MODEL": api.installation.version,
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise it fetches a list of prices when it is imported
    }
    programs = SECTION.findall(PAGE.read_text())
    assert [package for package, _ in programs] == [
        "langchain-openai",
        "llama-index-llms-openai-like",
        "litellm",
    ]
    for package, program in programs:
        command = [python, "-W", "ignore", "-c", program]
        done = subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
        )
        assert done.returncode == 0, (package, done.stderr)
        assert "It rains." in done.stdout, (package, done.stdout)
        assert package != "litellm" or '{"city": "Paris"}' in done.stdout
