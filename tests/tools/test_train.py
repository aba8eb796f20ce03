import csv
import sys

from tests.tools.conftest import load_tool


def test_a_run_leaves_its_config_its_losses_and_its_weights(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "metrics.csv", "weights.safetensors", "weights.safetensors.sha256"} <= names
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert any(row["train/loss"] for row in rows)
    assert any(row["val/loss"] for row in rows)


def test_a_wrong_config_is_one_sentence_and_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(tmp_path / "none.yaml")])
    assert load_tool("train").main() == 1
    said = capsys.readouterr().err
    assert said.startswith("train: load_yaml: ")
    assert "none.yaml must be a readable YAML file" in said
