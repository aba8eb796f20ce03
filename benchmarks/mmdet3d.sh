#!/usr/bin/env bash
# Installs mmdet3d, mmdet, mmengine and mmcv in an environment, beside what is there: peers of benchmarks, oracles of tests.
#
#   benchmarks/mmdet3d.sh .venv/bin/python        (`make mmdet3d` does)
#
# The package index has mmcv as source alone. It is compiled for the CPU, once per Python, torch and processor: the wheel is
# kept in ${XDG_CACHE_HOME:-~/.cache}/bev-perception-stack/wheels. An interrupted build goes on where it stopped. All
# versions are those of constraints.txt. The packages ask for others (OpenCV with windows, old linters), so they come
# without what they ask for, and what they import when they run is named here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUNTIME=(addict imageio lazy_loader scikit-image six terminaltables tifffile trimesh yapf)
PACKAGES=(lyft-dataset-sdk mmdet mmdet3d mmengine)
FLAGS="-O3 -DNDEBUG -fwrapv -g0" # Python's own, without debugging symbols

fail() {
    echo "mmdet3d: $*" >&2
    exit 1
}

python="${1:?usage: mmdet3d.sh PYTHON}"
[[ -x "$python" ]] || fail "$python was not found; run make setup"
python="$(cd "$(dirname "$python")" && pwd)/$(basename "$python")"
export PATH="${python%/*}:$PATH" # the environment's ninja
pip=("$python" -m pip --disable-pip-version-check)
constrained=("${pip[@]}" install --quiet --constraint constraints.txt)

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' ||
    fail "Python 3.11 or 3.12 is needed, $python is $("$python" -V)"
key="$("$python" -c 'import platform, sys, torch
print(f"cp{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}-{platform.machine()}")')" ||
    fail "torch cannot be imported by $python; run make setup"
version="$(sed -n 's/^mmcv==//p' constraints.txt)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/bev-perception-stack"
wheels="$cache/wheels/$key"
build="$cache/build/$key"

kept_wheel() {
    local found=("$wheels/mmcv-$version"-*.whl)
    [[ -f "${found[0]}" ]] && echo "${found[0]}"
}

# Downloads and unpacks the source; a folder of the name mmcv-VERSION is whole.
fetch_source() {
    [[ -d "$build/mmcv-$version" ]] && return
    local archive="$build/download"
    rm -rf "$archive" && mkdir -p "$archive"
    "${pip[@]}" download --quiet --no-deps --no-build-isolation --no-binary mmcv --dest "$archive" "mmcv==$version" ||
        fail "the source of mmcv $version could not be had from the package index; is there a network?"
    tar -xzf "$archive/mmcv-$version.tar.gz" -C "$archive"
    mv "$archive/mmcv-$version" "$build/"
    rm -rf "$archive"
}

# Nine tenths of the compiler's time would go into torch's headers, once for each of mmcv's 77 files.
precompile_headers() {
    local header="$build/headers.h" includes
    [[ -f "$header.gch" ]] && return
    mapfile -t includes < <("$python" -c 'import sysconfig, torch.utils.cpp_extension
for path in (*torch.utils.cpp_extension.include_paths(), sysconfig.get_paths()["include"]):
    print(f"-I{path}")')
    echo '#include <torch/types.h>' >"$header"
    # shellcheck disable=SC2086
    "${CXX:-c++}" $FLAGS -fPIC -std=c++17 "${includes[@]}" -x c++-header "$header" -o "$build/headers.part" &&
        mv "$build/headers.part" "$header.gch"
}

# What was compiled before an interruption is kept, what was linked is not. Without the headers it only takes longer.
compile() {
    local source="$build/mmcv-$version"
    rm -rf "$source"/dist "$source"/build/lib.*
    precompile_headers
    cd "$source" && env MMCV_WITH_OPS=1 FORCE_CUDA=0 CUDA_VISIBLE_DEVICES= MAX_JOBS="${MAX_JOBS:-$(nproc)}" \
        CFLAGS="$FLAGS -include $build/headers.h" "$python" setup.py bdist_wheel --dist-dir dist
}

require_compiler() {
    local include
    command -v "${CXX:-c++}" >/dev/null || fail "the C++ compiler ${CXX:-c++} was not found; install g++"
    include="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')"
    [[ -f "$include/Python.h" ]] || make --no-print-directory system SYSTEM_PACKAGES="${include##*/}-dev"
    [[ -f "$include/Python.h" ]] || fail "$include/Python.h was not found; install ${include##*/}-dev"
}

build_wheel() {
    require_compiler
    mkdir -p "$build"
    exec 9>"$build.lock"
    flock 9 # a second build waits for the first and finds its wheel
    kept_wheel >/dev/null && return
    fetch_source
    echo "mmdet3d: compiling mmcv $version for $key, which takes minutes; the log is $build.log"
    if ! (compile) >"$build.log" 2>&1; then
        tail -n 20 "$build.log" >&2
        fail "mmcv $version could not be compiled, see $build.log"
    fi
    mkdir -p "$wheels"
    mv "$build/mmcv-$version/dist/mmcv-$version"-*.whl "$wheels/" # a rename: the wheel is there whole or not at all
    rm -rf "$build" "$build.log"
}

kept_wheel >/dev/null || build_wheel
"${constrained[@]}" "${RUNTIME[@]}"
"${constrained[@]}" --no-deps "${PACKAGES[@]}"
"${pip[@]}" install --quiet --no-deps --force-reinstall "$(kept_wheel)"
"$python" -c 'import mmcv.ops, mmdet3d.datasets, mmdet3d.evaluation
print(f"mmdet3d: mmdet3d {mmdet3d.__version__} and mmcv {mmcv.__version__} are installed")'
