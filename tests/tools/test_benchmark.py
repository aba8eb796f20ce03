import json
from pathlib import Path

import pytest
import torch

from benchmarks.ops._cuda_cases import CASES
from benchmarks.ops._measure import compare
from tests.tools.conftest import load_tool

OPS = {path.stem for path in (Path(__file__).parents[2] / "benchmarks" / "ops").glob("[!_]*.py")}
COLUMNS = ["op", "case", "ours_ms", "peer", "peer_ms", "ratio", "limit_ms", "limit_share"]


def test_a_table_has_a_column_for_every_name():
    rows = [{"op": "bev_pool", "ours_ms": 1.23456}, {"op": "nms", "peer": "torch"}]
    assert load_tool("benchmark").table(rows).splitlines() == [
        "op        ours_ms  peer",
        "bev_pool  1.235",
        "nms                torch",
    ]


def test_rows_are_written_as_they_are_measured(real_data, tmp_path, capsys):
    options = ["--dataroot", str(real_data / "nuscenes"), "--repeats", "1", "--json", str(tmp_path / "rows.json")]
    assert load_tool("benchmark").main(["loader", *options]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows
    assert all(row["ours_ms"] > 0 for row in rows)
    assert "ours_ms" in capsys.readouterr().out.splitlines()[0]


def test_an_unknown_kind_or_op_names_the_known_ones(capsys):
    with pytest.raises(SystemExit, match="2"):
        load_tool("benchmark").main(["speed"])
    with pytest.raises(SystemExit, match="2"):
        load_tool("benchmark").main(["ops", "--only", "bevpool"])
    said = capsys.readouterr().err
    assert "'ops', 'data', 'loader'" in said or "ops, data, loader" in said
    assert "scatter_reduce" in said


def test_rows_have_the_same_columns_with_and_without_a_peer():
    ours = torch.ones(1000)
    with_peer, absent = compare("sum", "1000", ours.sum, {"torch": ours.sum, "mmcv": None}, 4000)
    assert list(with_peer) == list(absent) == COLUMNS
    assert with_peer["ratio"] == with_peer["peer_ms"] / with_peer["ours_ms"]
    assert (absent["peer"], absent["peer_ms"], absent["ratio"]) == ("mmcv", "absent", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_a_clear_error(capsys):
    assert load_tool("benchmark").main(["ops", "--device", "cuda"]) == 1
    assert "benchmark: --device cuda must find a GPU that torch can use, got torch" in capsys.readouterr().err


def test_every_op_has_cases_for_cuda():
    assert set(CASES) == OPS


@pytest.mark.slow
@pytest.mark.parametrize("op", sorted(OPS))
def test_cases_for_cuda_run_on_any_device(op):
    for case in CASES[op](torch.device("cpu")):
        case.ours()
        assert case.peers
        assert case.least_bytes > 0
