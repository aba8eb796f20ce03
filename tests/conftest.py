"""Fixtures and settings that every test shares."""

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.synthetic_nuscenes import write_synthetic_nuscenes

# Derandomised, so that a run depends on the code alone; no deadline, so that it does not depend on the machine's load.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("project")
torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of recorded frames, named by PERCEPTION_REAL_DATA; the test is skipped where it is unset."""
    folder = os.environ.get("PERCEPTION_REAL_DATA")
    if not folder:
        pytest.skip("PERCEPTION_REAL_DATA is not set; it names a folder of recorded frames")
    path = Path(folder)
    assert path.is_dir(), f"PERCEPTION_REAL_DATA must name a folder, got {folder}"
    return path


@pytest.fixture(scope="session")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with pictures, points and boxes: scene-0061 (mini_train) and scene-0103 (mini_val)."""
    return write_synthetic_nuscenes(tmp_path_factory.mktemp("set"))
