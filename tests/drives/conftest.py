"""A synthetic set and a model for it, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.synthetic_nuscenes import write_synthetic_nuscenes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more in waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with pictures, points and boxes: scene-0061 (mini_train) and scene-0103 (mini_val)."""
    return write_synthetic_nuscenes(tmp_path_factory.mktemp("set"))
