"""Which room of `perception` may import which room and which package: the layer table, held by walking the imports."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "perception"

# A room imports only from rooms of a lower level, never from a sibling.
LEVELS = {
    "geometry": 0,
    "structures": 1,
    "ops": 1,
    "formats": 1,
    "data": 2,
    "simulation": 2,
    "models": 2,
    "tracking": 2,
    "visualization": 2,
    "evaluation": 3,
    "runtime": 3,
    "training": 4,
    "robustness": 4,
    "drives": 4,
    "interop": 4,
}

# The rooms that each heavier package is confined to; torch, numpy and the standard library are free.
ROOMS_OF = {
    "PIL": {"formats", "data", "visualization", "drives"},
    "av": {"visualization"},
    "cv2": {"formats", "data", "simulation", "visualization"},
    "jsonargparse": {"runtime", "training"},
    "lightning": {"training"},
    "msgspec": {"formats", "data", "evaluation"},
    "numba": {"evaluation", "formats", "simulation"},
    "nuscenes": {"evaluation"},
    "open3d": {"simulation", "visualization"},
    "pyarrow": {"formats", "data"},
    "rich": {"training"},
    "safetensors": {"models", "runtime"},
    "scipy": {"models", "simulation", "tracking"},
    "shapely": {"formats", "simulation"},
    "tqdm": {"data", "simulation", "drives"},
    "transformers": {"models"},
    "yaml": {"runtime", "simulation"},
}


def imported_modules(path: Path, parents: list[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in a file; `parents` are the packages that it lies in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) + 1 - node.level] if node.level else []
            base = [*base, *(node.module or "").split(".")]
            yield from ((node.lineno, ".".join(filter(None, [*base, alias.name]))) for alias in node.names)


def import_fault(room: str, name: str) -> str | None:
    """What is wrong with importing `name` in `room`, or None."""
    top, target, *_ = [*name.split("."), ""]
    if top == "perception":
        if target in LEVELS and target != room and LEVELS[target] >= LEVELS.get(room, -1):
            return f"{room} (level {LEVELS.get(room)}) imports {target} (level {LEVELS[target]})"
    elif top in {"torch", "numpy"} or top in sys.stdlib_module_names:
        return None
    elif top not in ROOMS_OF:
        return f"{top} is assigned to no room"
    elif room not in ROOMS_OF[top]:
        return f"{top} belongs to {', '.join(sorted(ROOMS_OF[top]))}, not to {room}"
    return None


def layer_faults(package: Path) -> list[str]:
    """Every import in a copy of `perception` that breaks the layers, as `file:line: reason`."""
    faults = []
    for path in sorted(package.rglob("*.py")):
        *folders, _ = path.relative_to(package).parts
        room = folders[0] if folders else "perception"
        if folders and room not in LEVELS:
            faults.append(f"{path}:1: {room} has no level")
        for line, name in imported_modules(path, ["perception", *folders]):
            if fault := import_fault(room, name):
                faults.append(f"{path}:{line}: {fault}")
    return faults


def test_every_import_keeps_the_layers() -> None:
    faults = layer_faults(PACKAGE)
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("geometry/grid.py", "import torch\nfrom perception.ops import nms\n", r"grid.py:2: .*imports ops"),
        ("data/index.py", "from ..models.heads import centre\n", r"index.py:1: .*imports models"),
        ("data/index.py", "from perception import tracking\n", r"index.py:1: .*imports tracking"),
        ("models/necks/fpn.py", "def f():\n    import cv2\n", r"fpn.py:2: cv2 belongs to .*, not to models"),
        ("formats/pcd.py", "import pypcd4\n", r"pcd.py:1: pypcd4 is assigned to no room"),
        ("__init__.py", "import perception.models\n", r"__init__.py:1: .*imports models"),
        ("utils/misc.py", "", r"misc.py:1: utils has no level"),
    ],
)
def test_a_broken_layer_is_found(tmp_path: Path, file: str, source: str, fault: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    (found,) = layer_faults(tmp_path)
    assert re.search(fault, found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "models/views/lift.py",
            "import torch.nn\nfrom .. import heads\nfrom perception.ops import pool\n",
        ),
        ("training/module.py", "from perception.models import detector\nimport lightning.pytorch\n"),
    ],
)
def test_imports_that_keep_the_layers_pass(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert layer_faults(tmp_path) == []
