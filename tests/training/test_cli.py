"""The command line in processes of its own: it changes what the parser of the whole process may import."""

import copy
import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from perception.formats.classes import DETECTION_CLASSES
from perception.runtime.checkpoint import load_weights
from perception.runtime.config import build_detector, load_config
from tests.tiny_config import tiny_config, write_config

PARTS = Path(__file__).resolve().parents[2] / "configs" / "training"
RUN_CASES = """
import contextlib, io, json, sys
from perception.training.cli import train
answers = {}
for name, arguments in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            train(arguments)
            answers[name] = "trained"
        except SystemExit as stop:
            answers[name] = f"status {stop.code}: {said.getvalue()}"
        except (ValueError, OSError) as error:
            answers[name] = f"error: {error}"
print(json.dumps(answers))
"""


def run_cases(cases: dict[str, list[str]], folder) -> dict[str, str]:
    """What `train` answers to each list of arguments."""
    command = [sys.executable, "-c", RUN_CASES, json.dumps(cases)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers(dataroot, tmp_path_factory):
    """The folder of a run that worked, and what was answered to arguments that are wrong."""
    folder = tmp_path_factory.mktemp("cli")
    config = tiny_config(dataroot)
    detector = config["model"]["init_args"]["detector"]
    fuser, head = detector["init_args"]["fuser"], detector["init_args"]["heads"]["boxes"]
    # The detector in a file of its own, its fuser in another, each relative to the file that names it.
    write_config(folder / "models" / "parts" / "fuser.yaml", fuser)
    detector["init_args"]["fuser"] = "parts/fuser.yaml"
    write_config(folder / "models" / "tiny.yaml", detector)
    config["model"]["init_args"]["detector"] = "../models/tiny.yaml"
    # The parts that come with the project, named as a user would.
    config["model"]["init_args"] |= {"schedule": str(PARTS / "one_cycle.yaml"), "base_batch_size": 2}
    config["data"]["init_args"]["transforms"] = [str(PARTS / "gt_paste_nuscenes.yaml")]
    config["trainer"] |= {"callbacks": str(PARTS / "callbacks.yaml"), "enable_checkpointing": True}
    good = str(write_config(folder / "runs" / "good.yaml", config))

    def spoiled(name: str, **changes) -> list[str]:
        """Arguments for a config with another head."""
        changed = copy.deepcopy(config)
        changed["model"]["init_args"]["detector"] = copy.deepcopy(detector)
        changed["model"]["init_args"]["detector"]["init_args"]["fuser"] = fuser
        changed["model"]["init_args"]["detector"]["init_args"]["heads"]["boxes"] = {**head, **changes}
        return ["--config", str(write_config(folder / f"{name}.yaml", changed))]

    overlay = {
        "model": {"init_args": {"detector": {"init_args": {"fuser": {"init_args": {"out_channels": {"main": 16}}}}}}}
    }
    write_config(folder / "overlay.yaml", overlay)
    wide = write_config(
        folder / "wide.yaml", {**fuser, "init_args": {**fuser["init_args"], "out_channels": {"main": 12}}}
    )
    checkpoint = {"class_path": "perception.training.checkpoints.StepCheckpoint", "init_args": {"every_n_steps": 1}}
    callbacks = [checkpoint, {"class_path": "perception.training.callbacks.WeightsWriter"}]
    overlay = write_config(folder / "often.yaml", {"trainer": {"callbacks": callbacks, "limit_val_batches": 0}})
    part = ["--config", good, "--config", str(overlay), "--out-dir", str(folder / "parts"), "--resume=last"]
    system = f"touch {folder}/owned"
    cases = {
        "good": [
            "--config",
            good,
            "--out-dir",
            str(folder / "out"),
            "--trainer.max_epochs=2",
            "--data.loader.repeats=1",
        ],
        "again": ["--config", str(folder / "out" / "config.yaml"), "--out-dir", str(folder / "again")],
        "first part": [*part, "--trainer.max_steps=1"],
        "second part": [*part, "--trainer.max_steps=2"],
        "overlay": ["--config", good, "--config", str(folder / "overlay.yaml"), "--out-dir", str(folder / "other")],
        "part by option": ["--config", good, f"--model.init_args.detector.init_args.fuser={wide}"],
        "unknown argument": spoiled("argument", init_args={**head["init_args"], "shard_channels": 8}),
        "unknown class": spoiled("class", class_path="perception.models.heads.centerpoint.CenterPontHead"),
        "other package": spoiled("package", class_path="os.system", init_args={"command": system}),
        "through torch": spoiled("alias", class_path="torch.os.system", init_args={"command": system}),
        "unknown option": ["--config", good, "--data.datarot=x"],
        "unknown group": ["--config", good, "--modle.x=3"],
        "unknown trainer option": ["--config", good, "--trainer.max_stepz=3"],
        "import by option": ["--config", good, "--model.optimizer", "os.system"],
        "import by list": ["--config", good, "--trainer.callbacks+=os.system"],
        "missing file": ["--config", str(folder / "none.yaml")],
    }
    return folder, run_cases(cases, folder)


def test_a_composed_config_trains_and_is_saved_resolved(answers, dataroot):
    folder, said = answers
    assert said["good"] == "trained"
    saved = yaml.safe_load((folder / "out" / "config.yaml").read_text())
    assert saved["model"]["init_args"]["detector"]["init_args"]["fuser"]["init_args"]["out_channels"] == {"main": 8}
    assert saved["trainer"]["max_epochs"] == 2
    assert saved["data"]["init_args"]["dataroot"] == str(dataroot)
    detector = build_detector(load_config(folder / "out" / "config.yaml"))
    load_weights(detector, folder / "out" / "weights.safetensors")
    assert (folder / "out" / "metrics.csv").is_file()


def test_a_saved_config_trains_again_to_the_same_weights(answers):
    folder, said = answers
    assert said["again"] == "trained"
    first, second = (build_detector(folder / name / "config.yaml") for name in ("out", "again"))
    load_weights(first, folder / "out" / "weights.safetensors")
    load_weights(second, folder / "again" / "weights.safetensors")
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(one.equal(other) for one, other in pairs)


def test_the_same_command_starts_a_run_and_goes_on_with_it(answers):
    folder, said = answers
    assert said["first part"] == said["second part"] == "trained"
    names = {path.name for path in (folder / "parts" / "checkpoints").iterdir()}
    steps = ("step-00000001.ckpt", "step-00000002.ckpt")
    assert names == {f"{step}{ending}" for step in steps for ending in ("", ".md", ".sha256")}
    for name in ("metrics.1.csv", "metrics.csv"):  # the logger would have removed the first
        assert len((folder / "parts" / name).read_text().splitlines()) == 2
    assert len(list((folder / "parts" / "tensorboard").glob("events.out.tfevents.*"))) == 2
    card = (folder / "parts" / "weights.safetensors.md").read_text()
    assert card.count("--trainer.max_steps=1") == card.count("--trainer.max_steps=2") > 0


def test_weights_say_how_they_were_made(answers, dataroot):
    folder, _ = answers
    path = folder / "out" / "weights.safetensors"
    with safe_open(path, "pt") as file:
        kept = file.metadata()
    assert json.loads(kept["class_names"]) == list(DETECTION_CLASSES)
    assert json.loads(kept["versions"])["torch"] == metadata.version("torch")
    assert kept["step"] == "2"
    assert yaml.safe_load(kept["config"]) == yaml.safe_load((folder / "out" / "config.yaml").read_text())
    (command,) = json.loads(kept["commands"])
    assert "--trainer.max_epochs=2" in command
    card = (folder / "out" / "weights.safetensors.md").read_text()
    assert command in card
    assert hashlib.sha256(kept["config"].encode()).hexdigest() in card
    assert kept["commit"] in card
    for heading in ("Command", "Config", "Source", "Data", "Seeds", "Figures", "Software", "Hardware", "Limits"):
        assert f"## {heading}\n" in card
    assert f"| dataroot | {dataroot} |" in card
    assert "| train | mini_train: 2 samples, sha256" in card
    assert "| val/loss |" in card


def test_a_second_config_lies_on_top(answers):
    _, said = answers
    # The fuser alone was changed, so its channels no longer fit the neck: the detector says so.
    assert "BevNeck requires 8 channels on level 'main', but ConcatConvFuser gives 16 channels" in said["overlay"]


def test_an_option_names_a_file_as_a_config_does(answers):
    _, said = answers
    assert (
        "BevNeck requires 8 channels on level 'main', but ConcatConvFuser gives 12 channels" in said["part by option"]
    )


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("unknown argument", "heads.boxes.init_args: CenterPointHead has no 'shard_channels' (did you mean 'shared_"),
        ("unknown class", "'perception.models.heads.centerpoint.CenterPontHead' (did you mean 'CenterPointHead'"),
        ("other package", "class_path must lie in one of perception, torch, lightning, transformers, got 'os.system'"),
        ("through torch", "class_path must"),
        ("unknown option", "did you mean dataroot"),
        ("unknown group", "did you mean model?"),
        ("unknown trainer option", "did you mean trainer.max_steps"),
        ("import by option", "Importing 'os.system' is not allowed"),
        ("import by list", "Importing 'os.system' is not allowed"),
        ("missing file", "none.yaml must be a readable YAML file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(answers, case, message):
    folder, said = answers
    assert message in said[case]
    assert not (folder / "owned").exists()
