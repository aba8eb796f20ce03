"""Builds the compiled kernels of `perception.ops`; everything else about the package is in pyproject.toml.

Two libraries, each `csrc/ops/*.cpp` (schemas, checks, registration) linked with one device's kernels:

    perception/ops/_C_cpu.so    csrc/cpu/*.cpp    with every install
    perception/ops/_C_cuda.so   csrc/cuda/*.cu    with PERCEPTION_CUDA=1 or `python setup.py build_cuda`; needs no GPU

They use torch's ABI-stable interface alone, so that one build serves every torch from 2.10 on and every Python.
Environment: CXX and CUDACXX name the compilers; PERCEPTION_NO_EXTENSION=1 builds nothing (the ops then run as plain
torch); PERCEPTION_CUDA_ARCHITECTURES lists the GPU generations ("80;90"). Objects stay in build/, and ninja recompiles
only what changed.
"""

import importlib.util
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MACHINES = ("x86_64", "amd64")
CPU, CUDA = "perception.ops._C_cpu", "perception.ops._C_cuda"
NO_EXTENSION_HINT = "set PERCEPTION_NO_EXTENSION=1 to install without kernels (the ops then run as plain torch, slower)"
# -ffp-contract=off keeps results equal on machines with and without fused multiply-add. -fno-trapping-math and
# -fno-math-errno let loops with a choice or a root in them vectorise (nobody reads the flags and errno).
CXX_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -march=x86-64-v2 -Wall -Wextra"
CXX_FLAGS += " -ffp-contract=off -fno-trapping-math -fno-math-errno"
NVCC_FLAGS = "-std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden,-march=x86-64-v2 -Xptxas -v"
# What the assembler says of one kernel on one GPU generation.
PTXAS_REPORT = re.compile(
    r"Compiling entry function '(\w+)' for '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)
TORCH_TARGET_VERSION = "0x020a000000000000"  # 2.10, the oldest torch that the libraries load into

log = logging.getLogger("setup")


class BuildLibraries(build_ext):
    """Compiles the libraries with ninja in build/ and puts each beside the Python files that load it."""

    def get_ext_filename(self, fullname: str) -> str:
        """Names the library without Python's ABI tag, as it does not depend on Python."""
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Writes the ninja file of one library, runs it and copies the result."""
        folder = ROOT / "build" / ext.name.rpartition("_")[2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(ninja_file(ext.name))
        ninja = find_program("ninja", "NINJA", "install it with `pip install ninja`")
        if subprocess.run([ninja, "-C", str(folder)], check=False).returncode != 0:
            sys.exit(f"setup.py: the kernels did not compile (the compiler's words are above); or {NO_EXTENSION_HINT}")
        if ext.name == CUDA:
            sources = sorted((ROOT / "csrc/cuda").glob("*.cu"))
            report_kernels([folder / f"cuda_{source.stem}.o.ptxas" for source in sources])
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / "library.so", target)


class BuildCuda(BuildLibraries):
    """Builds the CUDA library into the source tree, with or without a GPU or a CUDA build of torch."""

    description = "compile the CUDA kernels into perception/ops (needs nvcc, no GPU)"

    def finalize_options(self) -> None:
        """Leaves the CUDA library alone to build, in place."""
        self.distribution.ext_modules = [extension(CUDA)]
        super().finalize_options()
        self.inplace = True


class AnyPythonWheel(bdist_wheel):
    """Tags the wheel for every Python 3 on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Replaces the tag of this interpreter."""
        return "py3", "none", super().get_tag()[2]


def ninja_file(name: str) -> str:
    """Gives the text of the ninja file that compiles one library from the files of csrc."""
    torch = torch_folder()
    csrc = f"-I{shlex.quote(str(ROOT / 'csrc'))} -ffile-prefix-map={shlex.quote(str(ROOT))}/="
    headers = shlex.quote(str(torch / "include"))
    includes = f"{csrc} -isystem {headers} -DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"
    link = f"-shared -L{shlex.quote(str(torch / 'lib'))} -ltorch_cpu -lc10 -Wl,--no-as-needed"
    sources = sorted((ROOT / "csrc/ops").glob("*.cpp"))
    rules = [rule("cxx", f"{compiler()} -MMD -MF $out.d {CXX_FLAGS} {includes} $extra -c $in -o $out", depfile=True)]
    if name == CPU:
        sources += sorted((ROOT / "csrc/cpu").glob("*.cpp"))
        rules += [rule("link", f"{compiler()} $in {link} -o $out")]
        edges, needs = [], ""
    else:
        nvcc = find_program("nvcc", "CUDACXX", "install the CUDA toolkit (13.0 or newer)", "/usr/local/cuda/bin")
        sources += sorted((ROOT / "csrc/cuda").glob("*.cu"))
        flags = f"{NVCC_FLAGS} {cuda_architectures()} -I{shlex.quote(str(ROOT / 'csrc'))} -DPERCEPTION_CUDA"
        report = "2> $out.ptxas || { cat $out.ptxas; exit 1; }"  # the assembler's words go there, too
        rules += [rule("cuda", f"{nvcc} -MD -MF $out.d {flags} -c $in -o $out {report}", depfile=True)]
        rules += [rule("link", f"{nvcc} $in {link.replace('-Wl,', '-Xlinker ')} -L. -ltorch_cuda -o $out")]
        # An empty library of the same name lets the linker record the dependency beside a torch without CUDA.
        rules += [rule("stub", f"{compiler()} -shared -x c++ /dev/null -Wl,-soname,libtorch_cuda.so -o $out")]
        edges, needs = ["build libtorch_cuda.so: stub"], " | libtorch_cuda.so"
    extra = "-DPERCEPTION_CUDA -DUSE_CUDA" if name == CUDA else ""
    objects = []
    for source in sources:
        objects.append(f"{source.parent.name}_{source.stem}.o")
        kind = "cuda" if source.suffix == ".cu" else "cxx"
        edges += [f"build {objects[-1]}: {kind} {ninja_path(source)}", f"  extra = {extra}"]
    edges.append(f"build library.so: link {' '.join(objects)}{needs}")
    return "\n".join([*rules, *edges, "default library.so", ""])


def report_kernels(logs: list[Path]) -> None:
    """Logs the registers of each CUDA kernel, and ends the build where one of ours spills them into memory."""
    registers: dict[str, dict[str, str]] = {}
    spilling: list[str] = []
    for path in logs:
        text = path.read_text()
        for line in text.splitlines():
            if not line.startswith(("ptxas info", " ")):
                log.warning("%s", line)
        for mangled, generation, stores, loads, count in PTXAS_REPORT.findall(text):
            kernel = kernel_name(mangled)
            spill = f" (spills: {stores} bytes stored, {loads} loaded)" if (stores, loads) != ("0", "0") else ""
            registers.setdefault(kernel, {})[generation] = count + spill
            if spill and not kernel.startswith("cub::"):
                spilling.append(f"{kernel} on {generation}{spill}")
    log.info("registers of the CUDA kernels; of CUB's, which come with the toolkit, those that spill:")
    for kernel, counts in sorted(registers.items()):
        if not kernel.startswith("cub::") or any("spills" in count for count in counts.values()):
            log.info("    %-40s %s", kernel, ", ".join(f"{g} {count}" for g, count in sorted(counts.items())))
    if spilling:
        sys.exit("setup.py: a CUDA kernel must keep to its registers: " + "; ".join(spilling))


def kernel_name(mangled: str) -> str:
    """Gives a kernel's name as it stands in the source, or the linker's where nothing can tell."""
    demangle = shutil.which("c++filt")
    if demangle is None:
        return mangled
    name = subprocess.run([demangle, mangled], capture_output=True, text=True, check=True).stdout.strip()
    cub = re.search(r"\bcub::(?:\w+::)*(\w+)", name)
    if cub:
        return f"cub::{cub[1]}"
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "").replace("perception::", "")
    return plain.partition("(")[0]


def rule(name: str, command: str, depfile: bool = False) -> str:
    """Gives a ninja rule; with `depfile` the headers that the compiler names are tracked."""
    lines = [f"rule {name}", f"command = {command}", f"description = {name} $out"]
    if depfile:
        lines += ["depfile = $out.d", "deps = gcc"]
    return "\n  ".join(lines) + "\n"


def ninja_path(path: Path) -> str:
    """Escapes what ninja's path syntax gives a meaning to."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def cuda_architectures() -> str:
    """Gives nvcc's options for each GPU generation, and portable code of the newest for later ones."""
    architectures = os.environ.get("PERCEPTION_CUDA_ARCHITECTURES", "80;90").split(";")
    options = [f"-gencode arch=compute_{a},code=sm_{a}" for a in architectures]
    return " ".join([*options, f"-gencode arch=compute_{architectures[-1]},code=compute_{architectures[-1]}"])


def compiler() -> str:
    """Finds the C++ compiler."""
    if "CXX" not in os.environ and shutil.which("g++") is None and shutil.which("clang++"):
        return "clang++"
    return find_program("g++", "CXX", f"install one (Debian: apt-get install g++) or {NO_EXTENSION_HINT}")


def find_program(name: str, variable: str, advice: str, *folders: str) -> str:
    """Finds a program in the environment variable, beside this Python, on PATH or in the usual folders."""
    if variable in os.environ:
        return os.environ[variable]
    beside_python = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside_python, os.environ.get("PATH", ""), *folders])
    found = shutil.which(name, path=path)
    if found is None:
        sys.exit(f"setup.py: {name} is not on PATH and {variable} is not set: {advice}")
    return shlex.quote(found)


def torch_folder() -> Path:
    """Finds the installed torch without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(
            "setup.py: torch is needed to build the kernels: install it first, then use "
            f"`pip install --no-build-isolation`; or {NO_EXTENSION_HINT}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def libraries() -> list[Extension]:
    """Chooses what this install builds."""
    if os.environ.get("PERCEPTION_NO_EXTENSION") == "1":
        log.warning("PERCEPTION_NO_EXTENSION=1: no kernels are built, the ops run as plain torch")
        return []
    if platform.machine().lower() not in MACHINES or sys.platform != "linux":
        log.warning(
            "no kernels for %s on %s: the ops run as plain torch (kernels need x86-64 Linux)",
            platform.machine(),
            sys.platform,
        )
        return []
    names = [CPU, CUDA] if os.environ.get("PERCEPTION_CUDA") == "1" else [CPU]
    return [extension(name) for name in names]


def extension(name: str) -> Extension:
    """Describes a library to setuptools, which so puts csrc into source distributions."""
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file())
    return Extension(name, [], depends=files)


if __name__ == "__main__":
    extensions = libraries()
    commands = {"build_ext": BuildLibraries, "build_cuda": BuildCuda}
    if extensions:
        commands["bdist_wheel"] = AnyPythonWheel
    setup(ext_modules=extensions, cmdclass=commands)
