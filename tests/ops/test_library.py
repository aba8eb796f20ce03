import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perception.ops import _library

ROOT = Path(__file__).parents[2]
LOADED = "import torch; from perception.ops import _library; print(_library.has_kernels(torch.device('cpu')))"


def run(*command, **environment):
    kept = {k: v for k, v in os.environ.items() if k not in ("CXX", "PERCEPTION_NO_EXTENSION")}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False
    )


def test_extension_can_be_switched_off():
    assert run("-c", LOADED, PERCEPTION_NO_EXTENSION="1").stdout.strip() == "False"


def test_missing_library_is_said_and_how_to_build_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_library, "_FOLDER", tmp_path)
    with caplog.at_level(logging.WARNING):
        assert not _library._load_library("_C_cpu.so", "pip install -e .")
    assert "_C_cpu.so is not built: its ops run as plain torch, slower. To build it: pip install -e ." in caplog.text


def test_broken_library_names_itself_and_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(_library, "_FOLDER", tmp_path)
    (tmp_path / "_C_cpu.so").write_bytes(b"not a library")
    with pytest.raises(ImportError, match=f"must load beside torch {re.escape(torch.__version__)}, got: .*Rebuild"):
        _library._load_library("_C_cpu.so", "pip install -e .")


def test_build_without_a_compiler_says_what_to_do(tmp_path):
    result = run("setup.py", "build_ext", "--build-lib", str(tmp_path), PATH=str(tmp_path))
    assert result.returncode != 0
    assert "g++ is not on PATH and CXX is not set" in result.stderr
    assert "PERCEPTION_NO_EXTENSION=1" in result.stderr


def test_build_of_nothing_succeeds(tmp_path):
    result = run("setup.py", "build_ext", "--build-lib", str(tmp_path), PATH=str(tmp_path), PERCEPTION_NO_EXTENSION="1")
    assert result.returncode == 0
    assert not list(tmp_path.rglob("*.so"))
