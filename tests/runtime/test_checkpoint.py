"""Checkpoints: what was saved is what is loaded, and nothing that was tampered with is."""

import contextlib
import hashlib
import os
import pickle
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from perception.runtime.checkpoint import checksum_path, load_weights, save_weights, write_checksum
from tests.models.scenes import make_detector


def small(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_detector_survives_the_round_trip(tmp_path: Path) -> None:
    source, target = make_detector(), make_detector()
    path = tmp_path / "weights.safetensors"
    save_weights(source, path, {"step": "7"})
    assert not states_equal(source, target)
    load_weights(target, path)
    assert states_equal(source, target)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"step": "7"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.safetensors", "weights.safetensors.sha256"]


def test_the_checksum_is_what_sha256sum_reads(tmp_path: Path) -> None:
    save_weights(small(), tmp_path / "weights.safetensors")
    subprocess.run(["sha256sum", "--check", "--quiet", "weights.safetensors.sha256"], cwd=tmp_path, check=True)


def test_saving_replaces_and_shared_tensors_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(small(), path)
    tied = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    tied["b"].weight = tied["a"].weight
    save_weights(tied, path)
    target = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    load_weights(target, path)
    assert torch.equal(target["b"].weight, tied["a"].weight)


def test_a_lightning_checkpoint_gives_the_detectors_part(tmp_path: Path) -> None:
    source, target = small(), small()
    state = {f"detector.{name}": value for name, value in source.state_dict().items()} | {"metric.sum": torch.ones(1)}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": []}, path)
    write_checksum(path)
    load_weights(target, path)
    assert states_equal(source, target)


def saved(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(small(), path)
    return path


def test_a_wrong_or_missing_checksum_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    found = hashlib.sha256(bytes(data)).hexdigest()
    with pytest.raises(ValueError, match=f"must have the sha256 in .*sha256, [0-9a-f]+, got {found}"):
        load_weights(small(), path)
    checksum_path(path).write_text("")
    with pytest.raises(ValueError, match="nothing, got"):
        load_weights(small(), path)
    checksum_path(path).unlink()
    with pytest.raises(ValueError, match=r"weights.safetensors.sha256 must be readable"):
        load_weights(small(), path)
    with pytest.raises(ValueError, match=r"absent.safetensors and .* must be readable"):
        load_weights(small(), tmp_path / "absent.safetensors")


@pytest.mark.parametrize("size", [0, 7, 20, 100])
def test_a_truncated_file_is_refused_even_with_its_own_checksum(size: int, tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    write_checksum(path)
    target = small()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load_weights(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["weights.safetensors", "last.ckpt"])
@pytest.mark.parametrize("plain_pickle", [True, False])
def test_a_pickled_payload_does_not_run(name: str, plain_pickle: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / name, tmp_path / "trace"
    content = {"state_dict": {"detector.0.weight": Payload(trace)}}
    if plain_pickle:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    write_checksum(path)
    with pytest.raises(ValueError, match=r"must be a whole safetensors file|must hold tensors and plain values alone"):
        load_weights(small(), path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"garbage"])
def test_a_damaged_lightning_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    write_checksum(path)
    with pytest.raises(ValueError, match="must hold tensors and plain values alone"):
        load_weights(small(), path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"weights": {}}, {"state_dict": {"detector.0.weight": 3}}, {"state_dict": {3: torch.ones(1)}}]
)
def test_a_checkpoint_of_something_else_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    write_checksum(path)
    with pytest.raises(ValueError, match="must be a Lightning checkpoint with a state_dict of tensors"):
        load_weights(small(), path)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(ValueError, match=r"6 of another shape|5 of another shape \(0.bias \(3,\) instead of \(4,\)"):
        load_weights(small(4), path)
    with pytest.raises(ValueError, match=r"1 missing \(1.bias\)|missing"):
        load_weights(nn.ModuleDict({"a": nn.Linear(1, 1)}), path)
    bare = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"5 unexpected \(1.bias, 1.num_batches_tracked, .*\)"):
        load_weights(bare, path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weight: weight * float("nan"), "1 not finite (0.weight)"),
        (lambda weight: weight.to(torch.int8), "1 of another kind of number (0.weight)"),
        (lambda weight: weight.to(torch.complex64), "1 of another kind of number (0.weight)"),
        (lambda weight: weight.to_sparse(), "1 of another kind of number (0.weight)"),
        (lambda weight: weight.to("meta"), "1 of another kind of number (0.weight)"),
    ],
)
def test_tensors_that_hold_no_weights_are_refused_and_nothing_is_copied(change, reason: str, tmp_path: Path) -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {f"detector.{name}": value + 1 for name, value in before.items()}
    state["detector.0.weight"] = change(state["detector.0.weight"])
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state}, path)
    write_checksum(path)
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_inside_a_lightning_checkpoint_is_never_a_traceback(tmp_path: Path) -> None:
    model, rng = small(), np.random.default_rng(0)
    whole, path = tmp_path / "whole.ckpt", tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"detector.{name}": value for name, value in model.state_dict().items()}}, whole)
    content = whole.read_bytes()
    for start in rng.integers(0, 900, 300):  # where the pickle lies
        path.write_bytes(content[:start] + rng.bytes(2) + content[start + 2 :])
        write_checksum(path)
        with contextlib.suppress(ValueError):
            load_weights(model, path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin", "weights"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must end in .safetensors or .ckpt, got"):
        load_weights(small(), tmp_path / name)
    with pytest.raises(ValueError, match=r"path must end in .safetensors, got"):
        save_weights(small(), tmp_path / name)


def test_a_failed_write_leaves_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    old = path.read_bytes()

    def refuse(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        save_weights(small(), path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.safetensors", "weights.safetensors.sha256"]
    load_weights(small(), path)


def test_half_precision_halves_the_file_and_keeps_what_does_not_fit(tmp_path):
    source, target = small(), small()
    weight = next(iter(source.parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = 1e6
    save_weights(source, tmp_path / "whole.safetensors")
    save_weights(source, tmp_path / "half.safetensors", half_precision=True)
    load_weights(target, tmp_path / "half.safetensors")
    for (name, value), found in zip(source.state_dict().items(), target.state_dict().values(), strict=True):
        assert found.dtype is value.dtype
        exact = value is weight or not value.is_floating_point() or value.flatten()[0] == 1e6
        assert torch.equal(found, value if exact else value.half().float()), name
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < sizes[1]
