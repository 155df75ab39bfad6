"""How many planted label errors are among the first suspects: the tables of docs/label-errors.md.

python dev/check_label_errors.py digits --output output/label_errors
MRCNN_ZOO_DATASETS=/path/to/datasets python dev/check_label_errors.py nuclei --output output/label_errors

The detections are computed once and kept in the folder. Per seed, ten label errors of each kind are planted into the
annotations. The method and its constants were chosen on the seeds 100 to 105; the table has the seeds 0 to 9. Written
are DATASET.md, and pictures of the first suspects of one seed and of the unchanged annotations.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from mrcnn_zoo.data.records import Dataset  # noqa: E402
from mrcnn_zoo.evaluation import prepare_evaluation  # noqa: E402
from mrcnn_zoo.evaluation.coco import ROWS_FILE  # noqa: E402
from mrcnn_zoo.evaluation.evaluator import evaluate  # noqa: E402
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth  # noqa: E402
from mrcnn_zoo.evaluation.label_errors import find_label_errors  # noqa: E402
from mrcnn_zoo.evaluation.metrics.contract import Evaluated  # noqa: E402
from mrcnn_zoo.inference.trained import load_trained  # noqa: E402
from mrcnn_zoo.inspection.pictures import save_picture  # noqa: E402
from mrcnn_zoo.inspection.suspect_pictures import draw_suspects  # noqa: E402
from mrcnn_zoo.output_files import write_text  # noqa: E402
from support.planted_errors import KINDS, count_found, plant_errors  # noqa: E402

WEIGHTS = {
    "digits": "zoo://Quickstart/mask_rcnn_R_18_FPN_digits",
    "nuclei": "zoo://Nuclei/mask_rcnn_R_18_FPN_small",
}
FIRST = (50, 100)
PER_KIND = 10
SHOWN = 12  # suspects per picture


def detections(name: str, folder: Path) -> tuple[Evaluated, Dataset]:
    """Ground truth and detections of the shipped model on its validation images, computed once.

    Args:
        name: of `WEIGHTS`.
        folder: of the results.
    """
    model, cfg, class_names = load_trained(WEIGHTS[name])
    (dataset,) = prepare_evaluation(cfg, class_names)
    rows_file = folder / name / "inference" / ROWS_FILE
    if not rows_file.exists():
        evaluate(model, dataset, cfg, output_dir=folder / name)
    rows = json.loads(rows_file.read_text())
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    return Evaluated(complete_ground_truth(dataset), rows, ("bbox", "segm"), dataset.name, limit), dataset


def measure(evaluated: Evaluated, seeds: Sequence[int], kinds: Sequence[str]) -> str:
    """Markdown of the mean number of found errors per kind, and of all kinds with the range over the seeds.

    Args:
        evaluated: with right annotations.
        seeds: of the planting.
        kinds: of the planted errors.
    """
    found: dict[tuple[int, bool], list[Counter[str]]] = {
        (first, strict): [] for first in FIRST for strict in (False, True)
    }
    for seed in seeds:
        truth, planted = plant_errors(evaluated.ground_truth, seed=seed, per_kind=PER_KIND, kinds=kinds)
        suspects = find_label_errors(replace(evaluated, ground_truth=truth))
        for (first, strict), counts in found.items():
            counts.append(count_found(planted, suspects[:first], kind_matters=strict))
    rows = []
    for (first, strict), counts in found.items():
        totals = [count.total() for count in counts]
        means = [f"{np.mean([count[kind] for count in counts]):.1f}" for kind in kinds]
        total = f"{np.mean(totals):.1f} ({min(totals)} to {max(totals)}) of {PER_KIND * len(kinds)}"
        rows.append([first, "yes" if strict else "no", *means, total])
    headers = ["first suspects", "of the planted kind", *kinds, "all"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def main() -> None:
    """Measure, print the table and save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(WEIGHTS))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 10), metavar=("FIRST", "END"))
    arguments = parser.parse_args()
    evaluated, dataset = detections(arguments.dataset, arguments.output)
    kinds = KINDS if len(dataset.class_names) > 1 else [kind for kind in KINDS if kind != "wrong class"]
    table = measure(evaluated, range(*arguments.seeds), kinds)
    print(table)
    write_text(arguments.output / f"{arguments.dataset}.md", table + "\n")
    planted, _ = plant_errors(evaluated.ground_truth, seed=arguments.seeds[0], per_kind=PER_KIND, kinds=kinds)
    for state, truth in (("planted", planted), ("unchanged", evaluated.ground_truth)):
        suspects = find_label_errors(replace(evaluated, ground_truth=truth))[:SHOWN]
        sheet = draw_suspects(suspects, dataset, truth["annotations"])
        print(save_picture(sheet, arguments.output / f"{arguments.dataset}_{state}.png"))


if __name__ == "__main__":
    main()
