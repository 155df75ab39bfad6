"""Compares suppressions on the same candidates: greedy at several thresholds, Soft-NMS, GossipNet, and their bound.

python dev/compare_suppression.py --constructed --output output/constructed
python dev/compare_suppression.py --weights output/gossip/model_final.pth --output output/compared

With --constructed a GossipNet is trained on scenes of dev/suppression_scenes.py and compared on others. Otherwise the
weights are those of a detector that has a trained GossipNet, and the images those of its DATASETS.TEST; overrides
follow as KEY VALUE. Two rows use the ground truth: the bound keeps the best localised candidate of each object and
nothing else; "no duplicates" keeps one candidate per object and the background. Written are table.md, results.json and
comparison.png.
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dev.suppression_scenes import IMAGE_SIZE, constructed_scenes
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data import Dataset, ImageRecord, InstanceRecord, build_eval_loader, load_dataset
from mrcnn_zoo.evaluation.backends import build_backend
from mrcnn_zoo.evaluation.coco import CocoEvaluator
from mrcnn_zoo.evaluation.ground_truth import BBOX
from mrcnn_zoo.inference.trained import load_trained
from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.modeling.detectors import to_original_size
from mrcnn_zoo.modeling.suppression import (
    GaussianFactor,
    GossipNet,
    GreedySuppression,
    LinearFactor,
    SoftSuppression,
    Suppression,
    build_suppression,
)
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.output_files import write_json, write_text
from mrcnn_zoo.structures import Detections, Sample, Targets

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SIGMAS = (0.3, 0.5, 0.7)
MIN_SCORE = 0.001  # of Soft-NMS
METRICS = ("AP", "AP50", "AP75")
GREEDY, LINEAR, GAUSSIAN, LEARNED, BOUND = "greedy", "soft_linear", "soft_gaussian", "GossipNet", "bound"
NO_DUPLICATES = "no duplicates"

TRAIN_STEPS, SCENES_PER_STEP, TEST_SCENES = 400, 4, 200
LEARNING_RATE = 0.002
CONSTRUCTED = (  # a network of the size of the scenes
    *("MODEL.ROI_HEADS.NUM_CLASSES", 1, "MODEL.GOSSIP_NET.NUM_BLOCKS", 4),
    *("MODEL.GOSSIP_NET.DIM", 64),
)

Results = dict[str, dict[str, dict[str, float]]]  # kind -> setting -> metric
Select = Callable[[Candidates, Targets], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Image:
    """An image with its candidates and its objects, both in pixels of the resized image."""

    sample: Sample
    candidates: Candidates  # of this image alone
    targets: Targets


def compare(images: Sequence[Image], dataset: Dataset, learned: Suppression | None, *, limit: int) -> Results:
    """AP of each kind of suppression and setting.

    Args:
        images: of the dataset.
        dataset: the ground truth.
        learned: with trained weights; None for a detector without.
        limit: detections per image.
    """
    results: Results = {}
    for kind, setting, select in _selections(learned):
        started = time.perf_counter()
        evaluator = CocoEvaluator(dataset, backend=build_backend("pycocotools"), tasks=(BBOX,), max_detections=limit)
        for image in images:
            evaluator.process([image.sample], [_detections(image, select, limit)])
        metrics = evaluator.evaluate()[BBOX]
        results.setdefault(kind, {})[setting] = {name: metrics[name] for name in METRICS}
        print(f"{kind:14}{setting:6}{metrics['AP']:6.2f}  {time.perf_counter() - started:.0f} s", flush=True)
    return results


def _selections(learned: Suppression | None) -> Iterator[tuple[str, str, Select]]:
    for threshold in THRESHOLDS:
        yield GREEDY, f"{threshold:g}", _without_targets(GreedySuppression(threshold))
    for threshold in THRESHOLDS:
        suppression = SoftSuppression(LinearFactor(threshold), min_score=MIN_SCORE)
        yield LINEAR, f"{threshold:g}", _without_targets(suppression)
    for sigma in SIGMAS:
        suppression = SoftSuppression(GaussianFactor(sigma), min_score=MIN_SCORE)
        yield GAUSSIAN, f"{sigma:g}", _without_targets(suppression)
    if learned is not None:
        yield LEARNED, "", _without_targets(learned)
    yield NO_DUPLICATES, "", one_per_object
    yield BOUND, "", best_of_objects


def _without_targets(suppression: Suppression) -> Select:
    return lambda candidates, _targets: suppression.suppress(candidates)


def best_of_objects(candidates: Candidates, targets: Targets) -> tuple[Tensor, Tensor]:
    """The candidate of its class with the largest IoU, at least 0.5, of each object; that is its score.

    Args:
        candidates: of one image.
        targets: its objects.
    """
    overlaps = box_ops.iou(candidates.boxes, targets.boxes)
    overlaps = overlaps.masked_fill(candidates.classes[:, None] != targets.classes, 0)
    rows, scores = [], []
    for _ in range(min(overlaps.shape)):
        value, place = overlaps.flatten().max(dim=0)
        if value < 0.5:
            break
        row, column = divmod(int(place), overlaps.shape[1])
        rows.append(row)
        scores.append(float(value))
        overlaps[row] = 0
        overlaps[:, column] = 0
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(scores)


def one_per_object(candidates: Candidates, targets: Targets) -> tuple[Tensor, Tensor]:
    """Of the candidates of each object the best localised, with the highest of their scores; others by greedy NMS.

    The background keeps its scores, so this is what the removal of duplicates alone can reach.

    Args:
        candidates: of one image.
        targets: its objects.
    """
    overlaps = box_ops.iou(candidates.boxes, targets.boxes)
    overlaps = overlaps.masked_fill(candidates.classes[:, None] != targets.classes, 0)
    best, owner = overlaps.max(dim=1) if len(targets) else (torch.zeros(len(overlaps)), torch.zeros(len(overlaps)))
    background = (best < 0.5).nonzero().flatten()
    kept, _ = GreedySuppression(0.5)(
        candidates.boxes[background], candidates.scores[background], candidates.classes[background]
    )
    rows, scores = list(background[kept]), list(candidates.scores[background[kept]])
    for column in range(len(targets)):
        own = ((best >= 0.5) & (owner == column)).nonzero().flatten()
        if len(own):
            rows.append(own[best[own].argmax()])
            scores.append(candidates.scores[own].max())
    if not rows:
        return candidates.classes[:0], candidates.scores[:0]
    order = torch.stack(scores).argsort(descending=True)
    return torch.stack(rows)[order], torch.stack(scores)[order]


@torch.no_grad()
def _detections(image: Image, select: Select, limit: int) -> Detections:
    candidates = image.candidates
    rows, scores = select(candidates, image.targets)
    rows, scores = rows[:limit], scores[:limit]
    found = Detections(candidates.image_sizes[0], candidates.boxes[rows], scores, candidates.classes[rows])
    return to_original_size(found, image.sample.original_size)


# --- images of a detector ---------------------------------------------------------------------------------------------
@torch.no_grad()
def read_images(model: Any, cfg: CfgNode, dataset: Dataset) -> list[Image]:
    """The candidates of a detector in all images of a dataset.

    Args:
        model: a GeneralizedRCNN or RetinaNet in evaluation mode.
        cfg: of the model.
        dataset: to be evaluated on.
    """
    images = []
    for (sample,) in build_eval_loader(cfg, dataset, with_targets=True, batch_size=1):
        candidates = replace(model.candidates(model.collate([sample])), features=None, vectors=None)
        assert sample.targets is not None
        images.append(Image(replace(sample, image=sample.image[:, :0, :0]), candidates, sample.targets))
    return images


# --- constructed scenes -----------------------------------------------------------------------------------------------
class NoPixels:
    """The source of an image that only has boxes."""

    name = "constructed"

    def read(self) -> Any:
        raise NotImplementedError


def constructed_images(count: int, *, seed: int) -> tuple[list[Image], Dataset]:
    """Scenes as images of a dataset.

    Args:
        count: number of scenes.
        seed: of the first; each scene has the next.
    """
    images, records = [], []
    for number in range(count):
        candidates, (targets,) = constructed_scenes(1, seed=seed + number)
        sample = Sample(torch.zeros((3, 0, 0), dtype=torch.uint8), image_id=number, original_size=IMAGE_SIZE)
        objects = tuple(InstanceRecord(box=tuple(box), class_index=0) for box in targets.boxes.tolist())
        images.append(Image(sample, candidates, targets))
        records.append(ImageRecord(number, NoPixels(), IMAGE_SIZE, objects))
    return images, Dataset("constructed", tuple(records), ("object",), (1,))


def train_on_scenes(*, steps: int = TRAIN_STEPS, seed: int = 0) -> Suppression:
    """A GossipNet trained on constructed scenes with other seeds than those of `constructed_images`.

    Args:
        steps: of the optimizer.
        seed: of weights and scenes.
    """
    torch.manual_seed(seed)
    net = build_suppression(load_config(None, list(CONSTRUCTED)), "GossipNet", 0.5, key="--constructed")
    assert isinstance(net, GossipNet)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        net.losses(*constructed_scenes(SCENES_PER_STEP, seed=seed * steps + step)).total().backward()
        optimizer.step()
        schedule.step()
    return net.eval()


# --- output -----------------------------------------------------------------------------------------------------------
def table(results: Results) -> str:
    """A Markdown table: of each kind the best setting, and AP at all of its settings.

    Args:
        results: of `compare`.
    """
    lines = ["| suppression | best setting | AP | AP50 | AP75 | AP at all settings |", "|---|---|---|---|---|---|"]
    for kind, settings in results.items():
        best = max(settings, key=lambda setting: settings[setting]["AP"])
        numbers = " | ".join(f"{settings[best][name]:.1f}" for name in METRICS)
        course = ", ".join(f"{setting}: {found['AP']:.1f}" for setting, found in settings.items() if setting)
        lines.append(f"| {kind} | {best} | {numbers} | {course} |")
    return "\n".join(lines) + "\n"


def draw(results: Results, path: Path, *, title: str) -> None:
    """AP of greedy and linear Soft-NMS over the threshold; of the others, lines.

    Args:
        results: of `compare`.
        path: of the PNG.
        title: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, color in ((GREEDY, "C0"), (LINEAR, "C1")):
        values = [results[kind][f"{threshold:g}"]["AP"] for threshold in THRESHOLDS]
        axes.plot(THRESHOLDS, values, marker="o", color=color, label=f"{kind}, best {max(values):.1f}")
    for kind, color, style in (
        (GAUSSIAN, "C2", "--"),
        (LEARNED, "C3", "-"),
        (NO_DUPLICATES, "grey", "-."),
        (BOUND, "black", ":"),
    ):
        if kind in results:
            best = max(found["AP"] for found in results[kind].values())
            axes.axhline(best, color=color, linestyle=style, label=f"{kind}, {best:.1f}")
    axes.set(title=title, xlabel="IoU threshold", ylabel="box AP")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--constructed", action="store_true", help="train and compare on constructed scenes")
    source.add_argument("--weights", help="of a detector, with a trained GossipNet if there is one")
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and the picture")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, help="KEY VALUE, with --weights")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.constructed:
        learned: Suppression | None = train_on_scenes()
        images, dataset = constructed_images(TEST_SCENES, seed=10**6)
        limit, title = 100, "constructed scenes"
    else:
        model, cfg, _ = load_trained(arguments.weights, overrides=arguments.overrides)
        dataset = load_dataset(cfg, cfg.DATASETS.TEST[0])
        images, limit, title = read_images(model, cfg, dataset), cfg.TEST.DETECTIONS_PER_IMAGE, dataset.name
        learned = model.suppression if isinstance(model.suppression, GossipNet) else None
    results = compare(images, dataset, learned, limit=limit)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "results.json", results, indent=2)
    write_text(arguments.output / "table.md", table(results))
    draw(results, arguments.output / "comparison.png", title=title)
    print(table(results))


if __name__ == "__main__":
    main()
