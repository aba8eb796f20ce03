"""Every public op with what it should not be given; how each is called stands in fuzz_calls.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.fuzz import public_ops

ROOT = Path(__file__).parents[2]


def fuzz(examples):
    """Gives the fault of each op, None for none. The process may die of an op: the rest then says so."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.ops.fuzz", str(examples)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    faults = {report["op"]: report["fault"] for report in reports if "fault" in report}
    end = f"the process ended with {result.returncode} in {reports[-1]['op'] if reports else 'its imports'}"
    return {op: faults.get(op, f"{end}:\n{result.stderr[-4000:]}") for op in public_ops()}


@pytest.fixture(scope="module")
def few():
    return fuzz(30)


@pytest.fixture(scope="module")
def many():
    return fuzz(150)


@pytest.mark.parametrize("op", public_ops())
def test_an_op_refuses_by_name_or_gives_what_its_reference_gives(few, op):
    assert few[op] is None, few[op]


@pytest.mark.slow
@pytest.mark.parametrize("op", public_ops())
def test_an_op_holds_under_many_examples(many, op):
    assert many[op] is None, many[op]
