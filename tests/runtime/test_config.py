"""Configs: what builds, and what is refused before it is imported."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.models.detector import Detector
from perception.models.necks.bev import BevNeck
from perception.runtime.class_paths import check_config, import_class
from perception.runtime.config import build_detector, load_config

SECOND = {
    "class_path": "perception.models.necks.second.SecondBackbone",
    "init_args": {"in_channels": 8, "stage_channels": [8], "stage_layers": [1], "stage_strides": [1], "up_channels": 8},
}
ENCODER = {
    "class_path": "perception.models.encoders.pillars.PillarEncoder",
    "init_args": {"fields": {"intensity": 0.01}, "point_channels": [8], "backbone": SECOND},
}
HEAD = {
    "class_path": "perception.models.heads.centerpoint.CenterPointHead",
    "init_args": {"in_channels": 8, "groups": [["car"]], "decoding": {"nms_radius_m": [0.4]}},
}
CONFIG: dict[str, Any] = {
    "class_path": "perception.models.detector.Detector",
    "init_args": {
        "grids": {"main": {"x_range_m": [-8, 8], "y_range_m": [-8, 8], "z_range_m": [-5, 3], "cell_m": [0.8, 0.8, 8]}},
        "class_names": ["car"],
        "branches": {
            "lidar": {"class_path": "perception.models.branches.LidarBranch", "init_args": {"encoder": ENCODER}}
        },
        "fuser": {
            "class_path": "perception.models.fusers.concat_conv.ConcatConvFuser",
            "init_args": {"in_channels": {"main": {"lidar": 8}}, "out_channels": {"main": 8}},
        },
        "neck": {"class_path": "perception.models.necks.bev.BevNeck", "init_args": {"levels": {"main": SECOND}}},
        "heads": {"boxes": HEAD},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The config with one entry replaced or added; the path counts from the detector's arguments."""
    config = copy.deepcopy(CONFIG)
    node: Any = config["init_args"]
    *parents, last = path.split("/")
    for key in parents:
        node = node[key]
    node[last] = value
    return config


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_config_builds_a_detector_of_the_named_classes() -> None:
    before = copy.deepcopy(CONFIG)
    detector = build_detector(CONFIG)
    assert isinstance(detector, Detector)
    assert detector.grids["main"].num_x == 20
    assert detector.heads["boxes"].decoding.nms_radius_m == (0.4,)
    assert before == CONFIG


def test_files_are_found_beside_the_file_that_names_them(tmp_path: Path) -> None:
    write(tmp_path / "models/parts/head.yaml", HEAD)
    write(tmp_path / "models/lidar.yaml", changed("heads/boxes", "parts/head.yaml"))
    model = {
        "class_path": "perception.training.module.TrainingModule",
        "init_args": {"detector": "../models/lidar.yaml"},
    }
    path = write(tmp_path / "runs/train.yaml", {"model": model, "trainer": {"max_epochs": 3}})
    assert load_config(path)["model"]["init_args"]["detector"] == CONFIG
    assert [name for name, _ in build_detector(path).named_parameters()] == [
        name for name, _ in build_detector(CONFIG).named_parameters()
    ]


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = write(tmp_path / "numbers.yaml", "a: 1e-3\nb: -2E5\nc: 1.5e2\nd: 3\ne: '1e-3'\nf: e5\n")
    assert load_config(path) == {"a": 1e-3, "b": -2e5, "c": 150.0, "d": 3, "e": "1e-3", "f": "e5"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1, 2", "must be a readable YAML file"),
        ("a: 1\na: 2", "the key 'a' is repeated"),
        ("- 1", "must hold a mapping, got list"),
        ("a: other.yaml", r"other.yaml \(named by .*config.yaml\) must be a readable YAML file"),
        ("a: config.yaml", r"must not name itself, got .*config.yaml -> .*config.yaml"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: &a [*a]", "nested without end|at most 100000 values"),
        ("a: &a [0,0,0,0,0,0,0,0,0]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*d,*d,*d,*d,*d,*d,*d,*d]",
         "at most 100000 values"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested without end"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml", content)
    with pytest.raises(ValueError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed("clas_names", ["car"]), r"config.init_args: .* no 'clas_names' .did you mean 'class_names'\?"),
        (changed("heads/boxes/init_args/in_chanels", 8), r"heads.boxes.init_args: .*did you mean 'in_channels' or"),
        (changed("heads/boxes/init_args/decoding/nms_radius", 1.0), r"decoding: .*did you mean 'nms_radius_m'"),
        (changed("grids/main/cell", 1.0), r"grids.main: Grid has no 'cell' .did you mean 'cell_m'\?"),
        (changed("fuser/args", {}), r"fuser: an object has no 'args' .did you mean 'init_args'\?"),
        (changed("fuser/dict_kwargs", {}), "fuser: an object has no 'dict_kwargs'"),
        (changed("fuser/class_path", "perception.models.necks.bev.BevNek"), "did you mean 'BevNeck'"),
        (changed("fuser/class_path", "perception.models.fusers.missing.Fuser"), "must name a class, got .*missing"),
        (changed("heads/boxes/init_args/in_channels", "many"), "in_channels"),
        (changed("heads/boxes/init_args/decoding/score_threshold", 3.0), "score_threshold must be in"),
        (changed("fuser", SECOND), "fuser: class_path must lead to Fuser, got .*SecondBackbone"),
        (changed("heads/boxes/init_args/in_channels", 4), "CenterPointHead requires 4 channels .* BevNeck gives 8"),
        ({"detector": CONFIG}, "must have class_path or model.init_args.detector at its top, got .'detector'."),
    ],
)  # fmt: skip
def test_bad_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_detector(config)


def test_a_missing_argument_is_named() -> None:
    config = copy.deepcopy(CONFIG)
    del config["init_args"]["heads"]["boxes"]["init_args"]["groups"]
    with pytest.raises(ValueError, match="groups"):
        build_detector(config)


FOREIGN = ["os.system", "subprocess.Popen", "builtins.eval", "pickle.loads", "shutil.rmtree", "evil_module.Evil"]
NOT_CLASSES = ["torch.hub.load", "torch.load", "torch.os.system", "perception.models.layers.conv_block", "torch.nn"]


def spec(class_path: str) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": {}}


@pytest.mark.parametrize("class_path", FOREIGN)
@pytest.mark.parametrize(
    "place",
    [
        "fuser",
        "heads/boxes/init_args/loss",
        "heads/boxes/init_args/groups",
        "branches/lidar/init_args/encoder/init_args/fields",
    ],
)
def test_foreign_class_paths_are_refused_before_they_are_imported(class_path: str, place: str) -> None:
    sys.modules.pop("evil_module", None)
    with pytest.raises(
        ValueError, match="class_path must lie in one of perception, torch, lightning, transformers, got"
    ):
        build_detector(changed(place, spec(class_path)))


@pytest.mark.parametrize(
    "class_path", ["", ".", "torch", "torch.", "torch..nn", ".torch.nn.Linear", "torch.nn.Linear()", "torchevil.Evil"]
)
def test_odd_class_paths_are_refused(class_path: str) -> None:
    with pytest.raises(ValueError, match="class_path must lie in one of"):
        import_class(class_path)


@pytest.mark.parametrize("class_path", NOT_CLASSES)
def test_functions_are_refused(class_path: str) -> None:
    with pytest.raises(ValueError, match=r"class_path must (name a class|lie in)"):
        build_detector(changed("fuser", spec(class_path)))


def test_values_that_no_file_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="neck: must be a plain value, got BevNeck"):
        build_detector(changed("neck", BevNeck(levels={"main": build_detector(CONFIG).neck.levels["main"]})))


def test_classes_that_an_allowed_module_only_imports_are_refused() -> None:
    borrowed = "torch.utils.cpp_extension.Path"
    with pytest.raises(ValueError, match=rf"must lead to a class of .*, got '{borrowed}', which is pathlib.Path"):
        build_detector(changed("fuser", spec(borrowed)))
    with pytest.raises(ValueError, match=r"must name a class, got 'torch.utils.cpp_extension.subprocess.Popen'"):
        build_detector(changed("fuser", spec("torch.utils.cpp_extension.subprocess.Popen")))


@pytest.mark.parametrize(
    "text", ["os.system", "evil_module.Evil", '{"class_path": "os.system", "init_args": {}}', "{class_path: os.system}"]
)
@pytest.mark.parametrize("place", ["fuser", "heads", "heads/boxes", "grids/main", "heads/boxes/init_args/loss"])
def test_a_string_cannot_stand_for_an_object(text: str, place: str) -> None:
    with pytest.raises(ValueError, match="must be a mapping with class_path and init_args, got"):
        build_detector(changed(place, text))


def test_a_string_with_an_object_inside_is_refused_anywhere() -> None:
    with pytest.raises(ValueError, match="must be a mapping with class_path"):
        build_detector(changed("class_names", ['{"class_path": "os.system"}']))


def test_importing_leaves_no_trace_of_a_refused_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "evil_module.py", f"open({str(tmp_path / 'trace')!r}, 'w')\nclass Evil:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for config in (changed("fuser", spec("evil_module.Evil")), changed("fuser", "evil_module.Evil")):
        with pytest.raises(ValueError, match="evil_module"):
            build_detector(config)
    assert not (tmp_path / "trace").exists()
    assert "evil_module" not in sys.modules


def test_the_caller_may_allow_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from perception.models.necks.bev import BevNeck\nclass MyNeck(BevNeck):\n    pass\n"
    write(tmp_path / "my_parts.py", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = changed("neck/class_path", "my_parts.MyNeck")
    with pytest.raises(ValueError, match=r"got 'my_parts.MyNeck'"):
        build_detector(config)
    assert type(build_detector(config, allowed_packages=["my_parts"]).neck).__name__ == "MyNeck"


STARTS_A_PROCESS = "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler"


def test_allowed_classes_stand_only_where_their_type_does() -> None:
    image_encoder = {
        "class_path": "perception.models.encoders.image.ImageEncoder",
        "init_args": {"model_type": "resnet", "config": {"depths": spec(STARTS_A_PROCESS)}},
    }
    branch = {"class_path": "perception.models.branches.CameraBranch", "init_args": {"encoder": image_encoder}}
    with pytest.raises(ValueError, match=r"config.depths: class_path must lead to Any, got 'torch.distributed"):
        build_detector(changed("branches/camera", branch))
    for place, wanted in [("neck", "Neck"), ("heads/boxes", "Head"), ("heads/boxes/init_args/loss", "CenterPointLoss")]:
        with pytest.raises(ValueError, match=rf"class_path must lead to {wanted}, got 'torch.distributed"):
            build_detector(changed(place, spec(STARTS_A_PROCESS)))
    with pytest.raises(ValueError, match="config: class_path must lead to Detector"):
        build_detector(spec(STARTS_A_PROCESS))


def test_strings_where_strings_belong_are_left_alone() -> None:
    layer = {
        "class_path": "torch.nn.TransformerEncoderLayer",
        "init_args": {"d_model": 8, "nhead": 2, "activation": "relu"},
    }
    check_config({"any": layer, "path": "data/v1.0-mini"})
    layer["init_args"]["activation"] = "os.system"
    with pytest.raises(ValueError, match=r"any.init_args.activation: must be a mapping"):
        check_config({"any": layer})
