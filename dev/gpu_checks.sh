#!/usr/bin/env bash
# Checks and measurements for a machine with a GPU, at most six minutes on one H100 or H200; see dev/BENCHMARKS.md.
#
#   bash dev/gpu_checks.sh [OUTPUT] [--only WORD ...]   run; OUTPUT defaults to $OUT, else output/gpu_checks
#   bash dev/gpu_checks.sh --wheels [3.12]              download wheels for a machine without network into dev/wheels,
#                                                       for its Python version; a run installs what is missing
#
# PYTHON is the interpreter; it needs torch >= 2.11 and torchvision >= 0.26.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
WHEELS=$ROOT/dev/wheels

if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=$([[ -x $ROOT/.venv/bin/python ]] && echo "$ROOT/.venv/bin/python" || echo python3)
fi

fetch_wheels() {
    "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$WHEELS" \
        fvcore iopath yacs termcolor portalocker tabulate tqdm rich markdown-it-py mdurl pygments pytest pluggy \
        iniconfig packaging
    "$PYTHON" -m pip download --quiet --no-deps --dest "$WHEELS" --only-binary=:all: --implementation cp \
        --python-version "$1" --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 pycocotools
    ls "$WHEELS"
}

install_missing() { # into a temporary folder; installed packages do not change
    local missing
    missing=$("$PYTHON" - "$WHEELS"/*.whl <<'PYTHON_CODE'
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for wheel in sys.argv[1:]:
    try:
        version(Path(wheel).name.split("-")[0])
    except PackageNotFoundError:
        print(wheel)
PYTHON_CODE
)
    if [[ -n "$missing" ]]; then
        # shellcheck disable=SC2086
        "$PYTHON" -m pip install --quiet --root-user-action ignore --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" $missing
    fi
}

if [[ "${1:-}" == --wheels ]]; then
    fetch_wheels "${2:-3.12}"
    exit
fi
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT
if compgen -G "$WHEELS/*.whl" >/dev/null; then
    install_missing
fi
PYTHONPATH="$ROOT:$SITE${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" "$ROOT/dev/gpu_checks.py" "$@"
