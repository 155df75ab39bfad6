#!/usr/bin/env bash
# Datasets that we write are read by labelme and datumaro, and theirs are read here; prints a table.
# Each tool gets an environment of its own in a temporary folder, which is removed. TOOLS is a folder with
# environments `labelme` and `datumaro` to use instead.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${VENV:-.venv}/bin/python"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export QT_QPA_PLATFORM=offscreen MRCNN_ZOO_CACHE="$work/cache" PYTHONPATH="$PWD:$PWD/tests"
"$python" dev/check_formats.py write "$work"
for tool in labelme datumaro; do
    environment="${TOOLS:-$work}/$tool"
    if [ ! -x "$environment/bin/python" ]; then
        python3 -m venv "$environment"
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$tool"
    fi
    PYTHONPATH="" "$environment/bin/python" dev/check_formats.py "$tool" "$work"
done
"$python" dev/check_formats.py compare "$work"
