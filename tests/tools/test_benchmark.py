import json

import pytest

from tests.tools.conftest import load_tool


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
        load_tool("benchmark").main(["ops", "--op", "bevpool"])
    said = capsys.readouterr().err
    assert "'ops', 'data', 'loader'" in said or "ops, data, loader" in said
    assert "scatter_reduce" in said
