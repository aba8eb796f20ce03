"""A synthetic set, a model trained on it by the tool itself, and the tools as modules."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.tiny_config import tiny_config, write_config

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def load_tool(name: str) -> ModuleType:
    """A tool as a module, whose `main` takes arguments."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def trained(dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of `tools/train.py`, started from another folder."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder / "tiny.yaml", tiny_config(dataroot))
    command = [sys.executable, str(TOOLS / "train.py"), "--config", str(config), "--out-dir", "run"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "wrote run"
    return folder / "run"
