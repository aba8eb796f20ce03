"""What the tests of all ops share."""

from collections.abc import Callable, Iterator

import pytest
import torch

from perception.ops import _library

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every device of this machine."""
    return request.param


@pytest.fixture(params=DEVICES)
def kernel_device(request: pytest.FixtureRequest) -> str:
    """Every device of this machine that compiled kernels run on."""
    if not _library.has_kernels(torch.device(request.param)):
        pytest.skip(f"the compiled kernels for {request.param} are not built")
    return request.param


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random numbers on the CPU."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def on_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
