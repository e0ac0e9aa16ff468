"""What is published, and the files of a public project: they parse, and what they call exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import onnxgrad as og

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = [p for p in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if p.stem != "config"]

# Nothing of these can be imported, as where only the library is installed.
BLOCKED = ("typer", "rich", "PIL")
WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
{code}
"""
LIBRARY = """
import numpy as np
import onnxgrad as og
from onnxgrad import adversarial, explain, train

net = og.Net(og.gradient("models/mlp.onnx"))
print(net(np.ones((1, 4), np.float32))["input_grad"].shape)
data = {"input": np.ones((8, 4), np.float32), "labels": np.zeros(8, np.int64)}
trainer = train.Trainer("models/mlp.onnx", og.losses.cross_entropy("logits"), train.SGD(lr=0.1))
print(len(trainer.fit(data, 1, batch_size=4)))
for call in (
    lambda: explain.image("models/cat.jpg", og.Net("models/cnn.onnx")),
    lambda: trainer.fit(data, 2, progress=True),
):
    try:
        call()
    except og.RuntimeMissingError as error:
        print(error)
"""


def without(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=BLOCKED, code=code)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_library_needs_nothing_of_the_command_line() -> None:
    run = without(LIBRARY)
    assert run.returncode == 0, run.stderr
    shape, epochs, image, bar = run.stdout.splitlines()
    assert (shape, epochs) == ("(1, 4)", "1")
    assert "onnxgrad[plot] or onnxgrad[cli]" in image
    assert "onnxgrad[cli]" in bar


def test_the_command_line_says_what_it_lacks() -> None:
    run = without("from onnxgrad.cli import main\nmain()")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.splitlines() == [
        "onnxgrad: the command line needs typer, which is not installed: "
        'pip install "onnxgrad[cli]"'
    ]


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_has_one_place() -> None:
    text = (ROOT / "onnxgrad" / "__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.*)"$', text, re.MULTILINE) == [og.__version__]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == og.__version__
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == og.__version__
    pyproject = project()
    assert "version" not in pyproject["project"]
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["hatch"]["version"]["path"] == "onnxgrad/__init__.py"


def test_the_command_line_comes_with_each_runtime() -> None:
    extras = project()["project"]["optional-dependencies"]
    assert {"cpu", "gpu", "training"} == {k for k, v in extras.items() if "onnxgrad[cli]" in v}
    names = {re.split(r"\W", one)[0] for one in project()["project"]["dependencies"]}
    assert names.isdisjoint({"pillow", "rich", "typer"})


def test_each_bridge_has_an_extra() -> None:
    assert set(og.bridges.__all__) <= set(project()["project"]["optional-dependencies"])


def commands(workflow: dict[str, Any]) -> list[str]:
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [line for step in steps for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_there_is(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow[True], "YAML reads the key `on` as true"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands(workflow):
        program, *words = command.split()
        if program == "make":
            assert set(words) <= set(targets), command
        for extra in re.findall(r'"\.\[(.*?)\]"', command):
            assert set(extra.split(",")) <= set(project()["project"]["optional-dependencies"])
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90


def test_the_matrix_has_what_is_supported() -> None:
    workflow = yaml.safe_load((GITHUB / "workflows" / "tests.yml").read_text())
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    described = project()["project"]
    classified = [c.rpartition(" ")[2] for c in described["classifiers"] if ":: 3." in c]
    assert matrix["python"] == classified
    assert described["requires-python"] == f">={classified[0]}"
    oldest = {one["onnxruntime"] for one in matrix["include"]}
    (required,) = (one for one in described["optional-dependencies"]["cpu"] if "onnxruntime" in one)
    assert {version.rpartition(".")[0] for version in oldest} == {required.rpartition(">=")[2]}


def test_the_public_tests_run_what_ci_runs() -> None:
    ours = re.findall(r"^make ([\w-]+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    workflow = yaml.safe_load((GITHUB / "workflows" / "tests.yml").read_text())
    theirs = {line.removeprefix("make ") for line in commands(workflow)}
    assert set(ours) <= theirs


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issues_are_asked_for_what_doctor_prints(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    labels = [field["attributes"]["label"] for field in form["body"]]
    assert any("onnxgrad doctor FILE" in label for label in labels)


def test_hooks_run_what_make_check_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    makefile = (ROOT / "Makefile").read_text()
    for hook in (hook for repository in config["repos"] for hook in repository["hooks"]):
        words = hook["entry"].removeprefix(".venv/bin/python ").split()
        assert f"$(PY) {' '.join(w for w in words if w != '--force-exclude')}" in makefile
