"""The limits that the code keeps: lengths, parameters, documented and typed functions, nothing dead."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("perception", "configs", "tools", "csrc", "tests", "benchmarks", "docs")
PRINTING = ("tools", "benchmarks")
MAX_LINES = {".py": 500, ".cpp": 400, ".cu": 400, ".h": 400, ".cuh": 400, ".yaml": 100}
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 10

Fault = tuple[int, str]
Function = ast.FunctionDef | ast.AsyncFunctionDef
STATEMENTS = (ast.Assign, ast.AugAssign, ast.Return, ast.If, ast.For, ast.While, ast.With, ast.Raise, ast.Assert)
STATEMENTS += (ast.Delete, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Try)


def is_code(text: str) -> bool:
    """Whether a comment's text is a Python statement or a call rather than prose or a tensor's shape."""
    text = text.strip()
    try:
        (node,) = ast.parse(text + " pass" if text.endswith(":") else text).body
    except (SyntaxError, ValueError):
        return False
    return isinstance(node, STATEMENTS) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))


def comment_faults(source: str) -> Iterator[Fault]:
    """Comments that hold code or put work off."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if is_code(token.string.lstrip("#")):
                yield token.start[0], f"commented-out code: {token.string}"
            if re.search(r"\b(TODO|FIXME|XXX)\b", token.string):
                yield token.start[0], f"work put off: {token.string}"


def function_faults(function: Function, public: bool) -> Iterator[Fault]:
    """Length, number of parameters and, where public, docstring and types of one function."""
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    parameters = [argument for argument in arguments if argument.arg not in ("self", "cls")]
    variadic = [argument for argument in (function.args.vararg, function.args.kwarg) if argument]
    if length > MAX_FUNCTION_LINES:
        yield function.lineno, f"{function.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
    if len(parameters) > MAX_PARAMETERS:
        yield function.lineno, f"{function.name} has {len(parameters)} parameters, at most {MAX_PARAMETERS}"
    if not public or (function.name.startswith("_") and function.name != "__init__"):
        return
    if function.name != "__init__" and not ast.get_docstring(function):
        yield function.lineno, f"{function.name} has no docstring"
    returns = function.returns is not None or function.name == "__init__"
    if not returns or any(argument.annotation is None for argument in parameters + variadic):
        yield function.lineno, f"{function.name} is not fully typed"


def python_faults(path: Path, folder: str) -> Iterator[Fault]:
    """Faults of one Python file, which lies in a top-level folder."""
    source = path.read_text()
    yield from comment_faults(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            yield from function_faults(node, public=folder != "tests")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield node.lineno, "star import"
        elif isinstance(node, ast.Name) and node.id == "print" and folder not in PRINTING:
            yield node.lineno, "print"


def cpp_faults(path: Path) -> Iterator[Fault]:
    """Comments of one C++ or CUDA file that hold code or put work off."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if re.match(r"\s*//.*[;{}]\s*$", line):
            yield number, f"commented-out code: {line.strip()}"
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            yield number, f"work put off: {line.strip()}"


def style_faults(root: Path) -> list[str]:
    """Every fault below a copy of the repository, as `file:line: reason`."""
    candidates = [*root.glob("*.py"), *(path for folder in FOLDERS for path in (root / folder).rglob("*"))]
    faults = []
    for path in sorted(path for path in candidates if path.suffix in MAX_LINES):
        found: list[Fault] = []
        lines = len(path.read_text().splitlines())
        if lines > MAX_LINES[path.suffix]:
            found.append((lines, f"the file has {lines} lines, at most {MAX_LINES[path.suffix]}"))
        if path.suffix == ".py":
            found.extend(python_faults(path, folder=path.relative_to(root).parts[0]))
        elif path.suffix != ".yaml":
            found.extend(cpp_faults(path))
        faults.extend(f"{path}:{line}: {reason}" for line, reason in found)
    return faults


def test_the_repository_keeps_the_limits() -> None:
    faults = style_faults(ROOT)
    assert not faults, "\n" + "\n".join(faults)


LONG_FUNCTION = "def _f() -> None:\n" + "    a = 1\n" * MAX_FUNCTION_LINES
WIDE_FUNCTION = "def _f(" + ", ".join(f"a{i}: int" for i in range(MAX_PARAMETERS + 1)) + ") -> None: ...\n"


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("perception/a.py", "a = 1\n" * 501, r"a.py:501: .*501 lines, at most 500"),
        ("perception/a.py", LONG_FUNCTION, r"a.py:1: _f has 81 lines"),
        ("tests/a.py", WIDE_FUNCTION, r"a.py:1: _f has 11 parameters"),
        ("perception/a.py", "a = 1\n# b = a + 1\n", r"a.py:2: commented-out code"),
        ("perception/a.py", "# if a:\n", r"a.py:1: commented-out code"),
        ("perception/a.py", "a = 1  # FIXME later\n", r"a.py:1: work put off"),
        ("perception/a.py", "try:\n    a = 1\nexcept:\n    pass\n", r"a.py:3: bare except"),
        ("perception/a.py", "from math import *\n", r"a.py:1: star import"),
        ("perception/a.py", "print(1)\n", r"a.py:1: print"),
        ("perception/a.py", "def f() -> None:\n    pass\n", r"a.py:1: f has no docstring"),
        ("tools/a.py", 'def f(a) -> int:\n    """One."""\n    print(a)\n', r"a.py:1: f is not fully typed"),
        ("csrc/ops/a.h", "\n" * 401, r"a.h:401: .*401 lines, at most 400"),
        ("csrc/cpu/a.cpp", "int a;\n// int b = 0;\n", r"a.cpp:2: commented-out code"),
        ("configs/a.yaml", "a: 1\n" * 101, r"a.yaml:101: .*101 lines, at most 100"),
    ],
)
def test_a_broken_limit_is_found(tmp_path: Path, file: str, source: str, fault: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = style_faults(tmp_path)
    assert re.search(fault, found)


def test_shapes_and_prose_are_no_code(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("a = 1  # (B, C, Y, X)\n# return of the sensor: x is forward\n# noqa: E501\n")
    assert style_faults(tmp_path) == []
