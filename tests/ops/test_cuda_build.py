import importlib.util
import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = "_ZN10perception46_GLOBAL__N__e1a9043c_13_group_rows_cu_0890315912find_offsetsEPKlllPl"
CUBS = "_ZN3cub21CUB_300001_SM_800_9006detail11EmptyKernelIvEEvv"


@pytest.fixture(scope="module")
def setup():
    spec = importlib.util.spec_from_file_location("perception_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(kernel, generation, registers, stores=0, loads=0):
    return (
        f"ptxas info    : Compiling entry function '{kernel}' for '{generation}'\n"
        f"ptxas info    : Function properties for {kernel}\n"
        f"    0 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n"
        f"ptxas info    : Used {registers} registers, used 0 barriers, 384 bytes cmem[0]\n"
    )


def test_registers_of_each_kernel_are_logged(setup, tmp_path, caplog):
    log = tmp_path / "a.ptxas"
    log.write_text(words(OURS, "sm_80", 16) + "a.cu(3): warning #177-D: unused\n" + words(OURS, "sm_90", 18))
    with caplog.at_level(logging.INFO):
        setup.report_kernels([log])
    assert "find_offsets" in caplog.text
    assert "sm_80 16, sm_90 18" in caplog.text
    assert "a.cu(3): warning #177-D: unused" in caplog.text


def test_a_spilling_kernel_of_ours_ends_the_build(setup, tmp_path):
    log = tmp_path / "a.ptxas"
    log.write_text(words(OURS, "sm_80", 16) + words(OURS, "sm_90", 255, stores=8, loads=4))
    with pytest.raises(SystemExit, match=r"find_offsets.* on sm_90 \(spills: 8 bytes stored, 4 loaded\)$"):
        setup.report_kernels([log])


def test_a_spilling_kernel_of_cub_is_named_alone(setup, tmp_path, caplog):
    log = tmp_path / "a.ptxas"
    log.write_text(words(CUBS, "sm_80", 4) + words(CUBS, "sm_90", 64, stores=4, loads=4))
    with caplog.at_level(logging.INFO):
        setup.report_kernels([log])
    assert "sm_80 4, sm_90 64 (spills: 4 bytes stored, 4 loaded)" in caplog.text
