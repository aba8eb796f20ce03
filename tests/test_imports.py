"""What importing the package and asking a tool for help costs: no package that the step does not need."""

import json
import subprocess
import sys

import pytest

from tests.test_layers import PACKAGE, ROOMS_OF

ROOT = PACKAGE.parent
HEAVY = {"torch", "numpy", "pandas", *ROOMS_OF}
# train.py hands its arguments to Lightning's command line, which has to be imported to answer.
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py") if path.name not in ("train.py", "__init__.py"))

LIST_NEW_MODULES = """
import json, sys
import numpy, torch, torch.library
before = {name.partition(".")[0] for name in sys.modules}
import %s
after = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(after - before - sys.stdlib_module_names)))
"""
ASK_FOR_HELP = """
import json, runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
    code = None
except SystemExit as stop:
    code = stop.code or 0
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def last_line_of(script: str, *arguments: str) -> object:
    """The JSON value that a script prints last, run in an interpreter of its own at the repository's root."""
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", ["perception", "perception.geometry", "perception.structures", "perception.ops"])
def test_import_needs_torch_and_numpy_alone(module: str) -> None:
    assert last_line_of(LIST_NEW_MODULES % module) == ["perception"]


def test_the_package_itself_imports_nothing() -> None:
    modules = last_line_of("import json, sys, perception; print(json.dumps(list(sys.modules)))")
    assert isinstance(modules, list)
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in modules)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_helps_without_heavy_packages(tool: str) -> None:
    answer = last_line_of(ASK_FOR_HELP, f"tools/{tool}")
    assert isinstance(answer, list)
    code, modules = answer
    assert code == 0
    assert HEAVY.isdisjoint(modules), f"--help imports {sorted(HEAVY.intersection(modules))}"


def test_scoring_a_submission_needs_no_torch() -> None:
    script = "import json, sys, perception.evaluation.detection_report; print(json.dumps('torch' in sys.modules))"
    assert last_line_of(script) is False
