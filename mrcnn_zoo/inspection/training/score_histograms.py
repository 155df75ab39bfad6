"""Scores of positive and negative anchors, and of foreground and background regions, of a trained model.

The scores are those of one recorded `predict`; the labels are those that the model's own labelers give in training, of
all anchors and regions instead of a sample. Ground-truth boxes are not added to the regions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.tables import ABSENT
from mrcnn_zoo.inspection.figures import finish, new_figure
from mrcnn_zoo.inspection.training.assigned_anchors import AnchoredStage, find_anchored_stage
from mrcnn_zoo.modeling.assignment import NEGATIVE, POSITIVE, label_all
from mrcnn_zoo.modeling.recording import Recording, StageReport, StageValues, recorded
from mrcnn_zoo.structures import Batch, Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

ANCHORS, REGIONS = "anchors", "regions"
BINS = 50  # of the scores in [0, 1], for the histograms and their overlap
SHARES = (0.5, 0.7)  # scores of the columns of the table
COLUMNS = 3  # plots per row
COLORS = {"positive": "#2a7ab9", "negative": "#c44e52"}


@dataclass(frozen=True)
class ScoreGroup:
    """Scores in [0, 1] of the positives and negatives of one kind."""

    name: str  # "anchors", "anchors p2", "regions"
    positive: Floats  # (P,)
    negative: Floats  # (M,)

    @property
    def auc(self) -> float:
        """The probability that a positive scores higher than a negative, ties by half; nan without one of both.

        Source: Mann and Whitney 1947; the area under the ROC curve.
        """
        if not len(self.positive) or not len(self.negative):
            return float("nan")
        from scipy.stats import rankdata

        ranks = rankdata(np.concatenate([self.positive, self.negative]))
        count = len(self.positive)
        rank_sum = float(ranks[:count].sum())
        return (rank_sum - count * (count + 1) / 2) / (count * len(self.negative))

    @property
    def overlap(self) -> float:
        """The common area of both histograms, each of area 1; nan without one of both."""
        if not len(self.positive) or not len(self.negative):
            return float("nan")
        return float(np.minimum(histogram(self.positive), histogram(self.negative)).sum())


def histogram(scores: Floats) -> Floats:
    """The share of scores in each of 50 bins of [0, 1].

    Args:
        scores: one or more.

    Returns:
        (50,).
    """
    counts, _ = np.histogram(np.clip(scores, 0.0, 1.0), bins=BINS, range=(0.0, 1.0))
    return counts / len(scores)


@torch.no_grad()
def collect_scores(model: nn.Module, samples: Iterable[Sample]) -> list[ScoreGroup]:
    """Scores of all anchors together, of those of each level, and of the regions, as far as the model has them.

    The score of an anchor is its objectness, in a RetinaNet its highest class score; that of a region its highest class
    score, whether that class is right or not. Ignored anchors and regions are left out.

    Args:
        model: a detector in evaluation mode.
        samples: images with targets, one or more.

    Raises:
        UserError: a model without anchors and regions, or no image.
    """
    found: dict[str, list[tuple[Floats, Floats]]] = {}
    for sample in samples:
        recording = Recording()
        recorded(model.predict, [sample], recorder=recording)  # type: ignore[arg-type]
        reports, values = recording.of_image(0), recording.values_of_image(0)
        if not values:
            raise UserError(
                f"scores: a {type(model).__name__} (MODEL.META_ARCHITECTURE) has neither anchors nor regions."
            )
        batch: Batch = model.collate([sample])  # type: ignore[operator]
        if "anchors" in values:
            stage = find_anchored_stage(model, purpose="scores")
            scores, labels, levels = _anchor_scores(stage, reports, values, batch)
            found.setdefault(ANCHORS, []).append(_divided(scores, labels))
            for level, name in enumerate(stage.in_features) if len(stage.in_features) > 1 else ():
                is_own = levels == level
                found.setdefault(f"{ANCHORS} {name}", []).append(_divided(scores[is_own], labels[is_own]))
        if "class scores" in values:
            found.setdefault(REGIONS, []).append(_divided(*_region_scores(model, values["class scores"], batch)))
    if not found:
        raise UserError("scores: there is no image.")
    return [_joined(name, parts) for name, parts in found.items()]


def _anchor_scores(
    stage: AnchoredStage, reports: Mapping[str, StageReport], values: Mapping[str, StageValues], batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """(A,) scores, labels and levels of all anchors."""
    anchors, maps = values["anchors"].values, values["features"].values
    boxes = anchors["boxes"]
    matches, _ = stage.label({name: level[None] for name, level in maps.items()}, boxes, batch)
    if "proposals" in reports:
        scores = torch.empty(len(boxes), device=boxes.device)
        scores[reports["proposals"].sources] = reports["proposals"].scores.sigmoid()
    else:
        report = reports["boxes"]  # a row for each class above the threshold, or for the best one
        scores = torch.zeros(len(boxes), device=boxes.device)
        scores.scatter_reduce_(0, report.sources, report.scores.float(), "amax")
    return scores, matches.labels, anchors["levels"]


def _region_scores(model: nn.Module, values: StageValues, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B,) highest class scores and labels of the regions, by the matcher of the last stage."""
    heads: Any = model.roi_heads
    later = getattr(heads, "matchers", ())  # of a cascade
    matcher = later[-1] if later else heads.labeler.matcher
    scores = values.values["scores"]
    (regions,) = label_all([values.values["boxes"]], batch.require_targets(), matcher, scores.shape[1])
    classes = regions.classes
    labels = torch.where(classes == scores.shape[1], NEGATIVE, torch.where(classes < 0, -1, POSITIVE))
    return scores.amax(dim=1) if len(scores) else scores[:, 0], labels


def _divided(scores: Tensor, labels: Tensor) -> tuple[Floats, Floats]:
    scores, labels = scores.double().cpu(), labels.cpu()
    return scores[labels == POSITIVE].numpy(), scores[labels == NEGATIVE].numpy()


def _joined(name: str, parts: Sequence[tuple[Floats, Floats]]) -> ScoreGroup:
    positive, negative = (np.concatenate(scores) for scores in zip(*parts, strict=True))
    return ScoreGroup(name, positive, negative)


def score_table(groups: Sequence[ScoreGroup]) -> str:
    """Markdown: counts, AUC, the shares above scores of 0.5 and 0.7 in %, and the overlap of the histograms in %.

    Args:
        groups: see `collect_scores`.
    """
    rows = []
    for group in groups:
        shares = [_share(scores, bound) for scores in (group.positive, group.negative) for bound in SHARES]
        numbers = [f"{group.auc:.4f}", *(f"{100 * value:.2f}" for value in (*shares, group.overlap))]
        cells = [ABSENT if number == "nan" else number for number in numbers]
        rows.append([group.name, str(len(group.positive)), str(len(group.negative)), *cells])
    bounds = [f"{kind} from {bound:g} in %" for kind in ("positives", "negatives") for bound in SHARES]
    headers = ["scores of", "positives", "negatives", "AUC", *bounds, "overlap in %"]
    sides = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=sides)


def _share(scores: Floats, bound: float) -> float:
    return float((scores >= bound).mean()) if len(scores) else float("nan")


def score_figure(groups: Sequence[ScoreGroup], *, title: str) -> "Figure":
    """A plot per group: the share of positives and of negatives per bin of the score, on a logarithmic axis.

    Args:
        groups: one or more, see `collect_scores`.
        title: above all plots.
    """
    columns = min(COLUMNS, len(groups))
    rows = -(-len(groups) // columns)
    figure = new_figure(columns=columns, side=3.2)
    figure.set_size_inches(4.0 * columns, 3.0 * rows + 0.4)
    figure.suptitle(title, fontsize=10)
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes, group in zip(grid, groups, strict=False):
        _plot_group(axes, group)
    for axes in grid[len(groups) :]:
        axes.set_axis_off()
    return figure


def _plot_group(axes: "Axes", group: ScoreGroup) -> None:
    edges = np.linspace(0.0, 1.0, BINS + 1)
    for kind, scores in (("positive", group.positive), ("negative", group.negative)):
        if len(scores):
            label = f"{len(scores):,} {kind}"
            axes.stairs(histogram(scores), edges, fill=True, alpha=0.45, color=COLORS[kind], label=label)
    auc = "" if np.isnan(group.auc) else f", AUC {group.auc:.3f}"
    finish(axes, title=f"{group.name}{auc}", x_label="score", y_label="share per bin")
    axes.set_yscale("log")
    axes.set(xlim=(0, 1), ylim=(1e-5, 1.5))
