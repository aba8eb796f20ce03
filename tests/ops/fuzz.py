"""Calls every public op with what it should not be given: `python -m tests.ops.fuzz EXAMPLES`.

A process of its own, so that a crash is a failed test and not the end of the run. Prints one JSON line per op when it
starts and one when it ends: `{"op": NAME, "fault": null or TEXT}`.
"""

import copy
import dataclasses
import faulthandler
import importlib
import inspect
import json
import pkgutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import perception.ops

SIZES = (0, 1, 2, 7, 65)
STRANGE = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3.4e38, 1e-42, -0.0, 9.3e18, -2.2e9)
EXTREMES = (2**63 - 1, -(2**63), 2**62, -2, 2**31, 2**32)


@dataclasses.dataclass
class Call:
    """One call and what is known of it.

    Args:
        function: the public op.
        arguments: by name, in the order of the signature.
        reference: gives what the op must give, for the same arguments; None where the op is its own reference.
        wrong: name -> values that the op must refuse, however the other arguments are.
        must_fail: these arguments must be refused as they are; names one that the error has to name.
        free: tensors that may have any number of axes and be on any device.
        also_named: errors may begin with this name of a kernel instead of the op's.
        tolerance: for results in float32.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    reference: Callable[..., Any] | None = None
    wrong: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    must_fail: str | None = None
    free: tuple[str, ...] = ()
    also_named: str = ""
    tolerance: float = 1e-4


class Source:
    """What hypothesis chooses, and numbers from a seed that it chooses."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self._draw = draw
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))

    def pick(self, *options: Any) -> Any:
        return self._draw(st.sampled_from(options))

    def size(self) -> int:
        return self.pick(*SIZES)

    def dtype(self, *dtypes: torch.dtype) -> torch.dtype:
        return self.pick(*(dtypes or (torch.float32, torch.float64)))

    def reals(self, *shape: int, low=-10.0, high=10.0, dtype=torch.float32, strange=False) -> Tensor:
        values = low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)
        if strange and self.pick(True, False):
            number = torch.randint(len(STRANGE), shape, generator=self.generator)
            chosen = torch.rand(shape, generator=self.generator) < 0.1
            values = torch.where(chosen, torch.tensor(STRANGE, dtype=torch.float64)[number], values)
        return self.layout(values.to(dtype))

    def wholes(self, *shape: int, low: int, high: int) -> Tensor:
        return self.layout(torch.randint(low, max(low + 1, high), shape, generator=self.generator))

    def bools(self, *shape: int) -> Tensor:
        return self.layout(torch.rand(shape, generator=self.generator) < 0.5)

    def layout(self, tensor: Tensor) -> Tensor:
        """Lays the same numbers out otherwise, or repeats the first along an axis with stride 0."""
        kind = self.pick("contiguous", "strided", "turned", "expanded", "offset")
        if tensor.ndim == 0 or tensor.numel() == 0 or kind == "contiguous":
            return tensor
        if kind == "strided":
            return tensor.repeat_interleave(2, -1)[..., ::2]
        if kind == "turned":
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == "expanded":
            return tensor[:1].expand(tensor.shape)
        return torch.cat((tensor[:1], tensor))[1:]


def tensors_in(arguments: Mapping[str, Any]) -> dict[tuple[str, str | int | None], Tensor]:
    """The tensors of a call by argument and, inside a dataclass or list, by field or place."""
    found: dict[tuple[str, str | int | None], Tensor] = {}
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            found[name, None] = value
        elif isinstance(value, list):
            found |= {(name, place): item for place, item in enumerate(value) if isinstance(item, Tensor)}
        elif dataclasses.is_dataclass(value):
            found |= {(name, key): item for key, item in vars(value).items() if isinstance(item, Tensor)}
    return found


def replaced(arguments: dict[str, Any], place: tuple[str, str | int | None], value: Any) -> dict[str, Any]:
    name, inner = place
    if inner is None:
        return arguments | {name: value}
    if isinstance(inner, int):
        return arguments | {name: [value if i == inner else item for i, item in enumerate(arguments[name])]}
    return arguments | {name: dataclasses.replace(arguments[name], **{inner: value})}


def damaged(source: Source, call: Call) -> tuple[dict[str, Any], str] | None:
    """Makes one argument wrong, and names it."""
    tensors = tensors_in({n: v for n, v in call.arguments.items() if n != "plan"})
    places = [*tensors, *((name, None) for name in call.wrong)]
    if not places:
        return None
    place = source.pick(*places)
    if place[0] in call.wrong and place not in tensors:
        return call.arguments | {place[0]: source.pick(*call.wrong[place[0]])}, place[0]
    tensor = tensors[place]
    kinds = ["list", "dtype", "complex"] + ["rank", "device"] * (place[0] not in call.free)
    if len(tensors_in(call.arguments)) == 1 and "device" in kinds:
        kinds.remove("device")
    kind = source.pick(*kinds)
    if kind == "list":
        value: Any = [1.0]
    elif kind == "rank":
        value = tensor[None]
    elif kind == "complex":
        value = tensor.to(torch.complex64)
    elif kind == "dtype":
        value = tensor.to(torch.int16)
    else:
        value = tensor.to("meta")
    return replaced(call.arguments, place, value), str(place[1] if isinstance(place[1], str) else place[0])


def flat(result: Any) -> list[Any]:
    if isinstance(result, tuple | list):
        return [item for part in result for item in flat(part)]
    if dataclasses.is_dataclass(result):
        return [item for part in vars(result).values() for item in flat(part)]
    return [result]


def same(ours: Any, theirs: Any, tolerance: float) -> None:
    for mine, other in zip(flat(ours), flat(theirs), strict=True):
        if isinstance(mine, Tensor):
            scale = tolerance if mine.dtype in (torch.float32, torch.float64) else 100 * tolerance
            torch.testing.assert_close(mine, other, rtol=scale, atol=scale, equal_nan=True, check_stride=False)
        else:
            assert mine == other, f"{mine} is not {other}"


def run_call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Runs a function; gives an error that a caller may make as a result."""
    try:
        return function(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        return error


def named(error: Exception, call: Call, argument: str) -> bool:
    """Whether an error names op and argument."""
    names = [name for name in (call.function.__name__, call.also_named) if name]
    return any(str(error).startswith(f"{name}: ") for name in names) and argument in str(error)


def check(source: Source, make: Callable[[Source], Call]) -> None:
    call = make(source)
    before = {place: tensor.clone() for place, tensor in tensors_in(call.arguments).items()}
    result = run_call(call.function, copy.copy(call.arguments))
    for place, tensor in tensors_in(call.arguments).items():
        torch.testing.assert_close(tensor, before[place], rtol=0, atol=0, equal_nan=True)
    if call.must_fail is not None:
        assert isinstance(result, Exception), f"{call.must_fail} must be refused, got {result}"
        assert named(result, call, call.must_fail), f"names no {call.must_fail}: {result!r}"
        return
    if isinstance(result, Exception):
        raise AssertionError(f"refused: {result!r}") from result
    if call.reference is not None:
        same(result, call.reference(**call.arguments), call.tolerance)
    damage = damaged(source, call)
    if damage is None:
        return
    arguments, name = damage
    refused = run_call(call.function, arguments)
    assert isinstance(refused, Exception), f"{name} must be refused, got {refused!r}"
    assert named(refused, call, name), f"does not name {call.function.__name__} and {name}: {refused!r}"


def public_ops() -> dict[str, Callable[..., Any]]:
    """Every public function of perception.ops but the references and the checks of arguments."""
    found = {}
    for module_info in pkgutil.iter_modules(perception.ops.__path__):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"perception.ops.{module_info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            private = name.startswith(("_", "check_")) or name.endswith("_reference")
            if function.__module__ == module.__name__ and not private:
                found[name] = function
    return found


def report(line: dict[str, str | None]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(examples: int) -> None:
    from tests.ops.fuzz_calls import CALLS

    faulthandler.enable()
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    profile = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )

    @profile
    @given(st.data())
    def attempt(op: str, data: st.DataObject) -> None:
        check(Source(data.draw), CALLS[op])

    for op in public_ops():
        report({"op": op})
        fault = None
        try:
            assert op in CALLS, f"tests/ops/fuzz_calls.py has no calls of {op}"
            attempt(op)
        except Exception:
            fault = traceback.format_exc()
        report({"op": op, "fault": fault})


if __name__ == "__main__":
    main(int(sys.argv[1]))
