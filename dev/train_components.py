"""Trains a small model with each component for one to six minutes and prints the table of dev/COMPONENTS.md.

    python dev/train_components.py                        # all of them, two at a time
    python dev/train_components.py --only RoIWarp vgg11   # names that contain one of these words
    python dev/train_components.py --table                # print the results in output/components

Each run changes one component of the same small Mask R-CNN on generated digit scenes. The results show that a component
learns, not which one is better: each is one short run with one seed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from component_list import COMPONENTS, COMPONENTS_ON_FILES
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "configs" / "Quickstart" / "mask_rcnn_R_18_FPN_digits.yaml"
RECIPE = "SOLVER.MAX_ITER 400 SOLVER.CHECKPOINT_PERIOD 0 TEST.EVAL_PERIOD 0 TEST.VAL_LOSS False"


def main() -> int:
    """Train the selected components and print the table."""
    arguments = _arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if not arguments.table:
        for runs in (COMPONENTS, COMPONENTS_ON_FILES):
            chosen = {name: runs[name] for name in runs if _is_chosen(name, arguments.only)}
            if not arguments.again:
                chosen = {name: keys for name, keys in chosen.items() if not _is_done(name, keys, arguments.output)}
            if any("PrecomputedProposals" in keys for keys in chosen.values()):
                _precompute_proposals(arguments.output)
            shortest_first = sorted(chosen.items(), key=lambda item: int(_iterations(item[1])))
            with ThreadPoolExecutor(arguments.jobs) as pool:
                list(pool.map(lambda item: _train(*item, folder=arguments.output), shortest_first))
    print(_table(arguments.output))
    return 0


def _precompute_proposals(folder: Path) -> None:
    weights = folder / _file_name("ProposalNetwork") / "model_final.pth"
    if weights.is_file():
        command = [
            sys.executable,
            "-m",
            "mrcnn_zoo.cli.main",
            "precompute-proposals",
            "--overwrite",
            "--weights",
            str(weights),
        ]
        subprocess.run([*command, "--output-dir", str(folder)], check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def _is_chosen(name: str, patterns: list[str]) -> bool:
    return not patterns or any(pattern.lower() in name.lower() for pattern in patterns)


def _is_done(name: str, overrides: str, folder: Path) -> bool:
    path = folder / f"{_file_name(name)}.json"
    return path.is_file() and json.loads(path.read_text()).items() >= {"overrides": overrides, "status": 0}.items()


def _train(name: str, overrides: str, *, folder: Path) -> None:
    run = folder / _file_name(name)
    values = overrides.replace("{folder}", str(folder)).split()
    command = [sys.executable, "-m", "mrcnn_zoo.cli.main", "train", "--config-file", str(CONFIG), "--overwrite"]
    command += [*RECIPE.split(), *values, "OUTPUT_DIR", str(run)]
    start = time.monotonic()
    with (folder / f"{_file_name(name)}.log").open("w") as log:
        # One thread per run: concurrent runs do not compete for cores.
        status = subprocess.run(
            command, stdout=log, stderr=log, check=False, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    row = {"name": name, "overrides": overrides, "status": status, "seconds": time.monotonic() - start}
    results = run / "inference" / "results.json"
    if status == 0 and results.is_file():
        row["results"] = json.loads(results.read_text())
    (folder / f"{_file_name(name)}.json").write_text(json.dumps(row, indent=2))
    print(f"{name}: {'done' if status == 0 else 'FAILED'} in {row['seconds']:.0f} s", flush=True)


def _table(folder: Path) -> str:
    rows = []
    for name, overrides in {**COMPONENTS, **COMPONENTS_ON_FILES}.items():
        path = folder / f"{_file_name(name)}.json"
        if not path.is_file():
            continue
        row = json.loads(path.read_text())
        is_stale = row["overrides"] != overrides
        values = [_figure(row, task) for task in ("bbox", "segm", "keypoints", "box_proposals", "classification")]
        note = "failed" if row["status"] else ("other overrides" if is_stale else "")
        rows.append([name, _iterations(overrides), *values, note])
    headers = ["component", "iterations", "box AP", "mask AP", "keypoint AP", "AR@100", "top-1", ""]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _iterations(overrides: str) -> str:
    if "--eval-only" in overrides:
        return "0"
    words = [*RECIPE.split(), *overrides.split()]
    return words[len(words) - words[::-1].index("SOLVER.MAX_ITER")]  # the value after the last one


def _figure(row: dict, task: str) -> str:
    metrics = row.get("results", {}).get(task, {})
    value = metrics.get({"box_proposals": "AR@100", "classification": "top1"}.get(task, "AP"))
    return "" if value is None else f"{value:.1f}"


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="words in names")
    parser.add_argument("--again", action="store_true", help="repeat runs that are finished with the same overrides")
    parser.add_argument("--jobs", type=int, default=2, help="number of concurrent runs")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "output" / "components")
    parser.add_argument("--table", action="store_true", help="print the table without training")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
