"""Measures ours beside its peers: `python tools/benchmark.py KIND [--json OUT]`, of the kinds below."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "ops": "the compiled operations",
    "data": "from tables to the first sample",
    "loader": "pictures and points of a sample",
    "simulation": "keyframes a second of simulated sets",
    "model": "a detector's parts, a training step, and the loader that feeds it",
    "branches": "each branch of the small configs, with its plan and in training",
    "fusers": "a forward pass and the parameters of every fuser",
    "evaluation": "from a result file to the detection metrics",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 1 with the reason on standard error.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options, rest = _parser().parse_args(arguments[:1]), arguments[1:]
    sys.path.insert(0, str(ROOT))  # the benchmarks lie beside this folder and are not installed
    parser = argparse.ArgumentParser(prog=f"benchmark.py {options.kind}", description=KINDS[options.kind])
    parser.add_argument("--json", type=Path, help="writes the rows there")
    try:
        rows = _run_ops(parser, rest) if options.kind == "ops" else _run_module(parser, options.kind, rest)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """Lays rows out in columns.

    Args:
        rows: values by column; a row may lack columns.

    Returns:
        Lines of text, the names of the columns first.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_text(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parser() -> argparse.ArgumentParser:
    words = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    epilog = f"{words}. `benchmark.py KIND --help` lists what a kind takes; all take --json OUT."
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog)
    parser.add_argument("kind", choices=KINDS, help="what to measure")
    return parser


def _run_ops(parser: argparse.ArgumentParser, arguments: list[str]) -> list[dict[str, Any]]:
    known = sorted(path.stem for path in (ROOT / "benchmarks" / "ops").glob("[!_]*.py"))
    parser.add_argument(
        "--only", metavar="OP", action="append", choices=known, help=f"one alone, may be repeated: {', '.join(known)}"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: device times and bandwidth")
    options = parser.parse_args(arguments)
    measure = _on_cuda() if options.device == "cuda" else _on_cpu
    rows: list[dict[str, Any]] = []
    for name in options.only or known:
        print(f"{name} ...", file=sys.stderr)
        rows += [dict(row) for row in measure(name)]
        _write(rows, options.json)
    return rows


def _on_cpu(op: str) -> Iterable[Mapping[str, Any]]:
    return importlib.import_module(f"benchmarks.ops.{op}").run()


def _on_cuda() -> Callable[[str], Iterable[Mapping[str, Any]]]:
    from benchmarks.ops._cuda import CudaTimer
    from benchmarks.ops._cuda_cases import CASES

    timer = CudaTimer()
    return lambda op: [row for case in CASES[op](timer.device) for row in timer.compare(op, case)]


def _run_module(parser: argparse.ArgumentParser, kind: str, arguments: list[str]) -> list[dict[str, Any]]:
    module = importlib.import_module(f"benchmarks.{kind}")
    module.add_arguments(parser)
    options = parser.parse_args(arguments)
    rows = [dict(row) for row in module.run(options)]
    _write(rows, options.json)
    return rows


def _write(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Writes what is measured so far, whole or not at all."""
    if path is None:
        return
    from perception.formats.files import atomic_writer

    with atomic_writer(path) as file:
        file.write(json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    sys.exit(main())
