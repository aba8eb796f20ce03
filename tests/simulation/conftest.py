"""A set made by the simulator itself, for the slow tests."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from perception.simulation.manifest import Manifest, plan_manifest
from perception.simulation.settings import PRESETS

SETTINGS = replace(PRESETS["suite"], seconds=8.0)


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """Two scenes for training and both of mini_val, eight seconds each, with every sensor and truth."""
    return plan_manifest(4, 0, SETTINGS)


@pytest.fixture(scope="session")
def simulated(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataroot of the set."""
    from perception.simulation.runner import simulate

    root = tmp_path_factory.mktemp("simulated") / "set"
    simulate(manifest, root, workers=min(2, os.cpu_count() or 1))
    return root
