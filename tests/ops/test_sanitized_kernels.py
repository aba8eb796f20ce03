import re
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"


def text_of(pattern):
    return "\n".join(path.read_text() for path in sorted(CSRC.glob(pattern)))


def test_every_kernel_is_called_under_the_sanitizers():
    kernels = set(re.findall(r"\b(\w+)\(const Executor&", text_of("ops/*.h")))
    called = set(re.findall(r"\b(\w+)(?:<\w+>)?\(", text_of("tests/*.cpp")))
    assert len(kernels) > 20
    assert kernels <= called
