"""Packs the small references of ../shared into tests/references.

python dev/pack_references.py

Weights and results of recorded cases are stored as .npz files with LZMA compression, float32 arrays as four byte
planes: a sixth smaller than files of `torch.save`. Bit-equality is checked after writing.
"""

import io
import lzma
import shutil
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.references import COMMITTED_CASES, REFERENCES, SHARED, SPLIT_BYTES, find_case  # noqa: E402

COPIED = ("config.yaml", "grad_norms.json", "model_settings.json")


def pack_case(name: str) -> None:
    """Write one case and verify the written files."""
    target = find_case(name).folder
    source = SHARED / "reference" / target.relative_to(REFERENCES)
    target.mkdir(parents=True, exist_ok=True)
    for file in COPIED:
        if (source / file).is_file():
            shutil.copyfile(source / file, target / file)
    content = torch.load(source / "model.pth", weights_only=True)
    state = content["model"] if "model" in content else content["state_dict"]
    weights = {key: value.numpy() for key, value in state.items()}
    with np.load(source / "io.npz") as stored:
        arrays = dict(stored)
    write_arrays(target / "weights.npz", weights)
    write_arrays(target / "io.npz", arrays)
    packed = find_case(name)
    assert_equal({key: value.numpy() for key, value in packed.weights.items()}, weights)
    assert_equal(packed.arrays, arrays)


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays in the format of `support.references.read_arrays`; equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            forms = {name: npy(array)}
            if array.dtype == np.float32 and array.ndim:
                forms[name + SPLIT_BYTES] = npy(split_bytes(array))
            smallest = min(forms, key=lambda form: len(lzma.compress(forms[form])))
            archive.writestr(zipfile.ZipInfo(f"{smallest}.npy"), forms[smallest], zipfile.ZIP_LZMA)


def npy(array: NDArray[Any]) -> bytes:
    """The content of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def split_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """float32 (...) -> uint8 (4, ...)."""
    return np.moveaxis(np.ascontiguousarray(array)[..., None].view(np.uint8), -1, 0)


def assert_equal(packed: dict[str, NDArray[Any]], original: dict[str, NDArray[Any]]) -> None:
    assert list(packed) == list(original)
    for name, array in original.items():
        assert (packed[name].dtype, packed[name].shape) == (array.dtype, array.shape), name
        assert packed[name].tobytes() == array.tobytes(), name


def pack_names() -> None:
    """Write the parameter names of all models into one file; models with equal names share a paragraph."""
    models: dict[str, list[str]] = defaultdict(list)
    for path in sorted((SHARED / "reference" / "detectron2" / "state_dict_keys").glob("*.txt")):
        models[path.read_text()].append(path.stem.replace("__", "/"))
    paragraphs = (f"# {' '.join(names)}\n{text.rstrip()}\n" for text, names in models.items())
    text = "".join(paragraphs).encode()
    (REFERENCES / "detectron2" / "state_dict_keys.txt.xz").write_bytes(lzma.compress(text, preset=9))


if __name__ == "__main__":
    for case in sorted(COMMITTED_CASES):
        pack_case(case)
    for file in ("config_defaults.json", "config_effective.json", "model_zoo.json"):
        shutil.copyfile(SHARED / "reference" / "detectron2" / file, REFERENCES / "detectron2" / file)
    pack_names()
    print(
        f"{sum(path.stat().st_size for path in REFERENCES.rglob('*') if path.is_file()) / 1e6:.1f} MB in {REFERENCES}"
    )
