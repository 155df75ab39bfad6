"""Reports of all stages on scenes computed by hand."""

import itertools
import math
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.detectors.retinanet_outputs import DenseSelection
from mrcnn_zoo.modeling.proposal_generators.rpn import RPN
from mrcnn_zoo.modeling.proposal_generators.selection import ProposalSelection
from mrcnn_zoo.modeling.recording import Fate, Recording, StageReport
from mrcnn_zoo.modeling.roi_heads.detection_selection import DetectionSelection, RegionPredictions
from mrcnn_zoo.modeling.suppression import GreedySuppression
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.structures import Batch, Proposals, Sample

SIZE = (100, 100)
CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))
K, B, T, S, G, L, N = (
    Fate.KEPT, Fate.BELOW_THRESHOLD, Fate.NOT_IN_TOP_K, Fate.TOO_SMALL, Fate.SUPPRESSED, Fate.BEYOND_LIMIT,
    Fate.NOT_FINITE,
)  # fmt: skip
BOXES = torch.tensor(
    [
        [10.0, 10, 40, 40],
        [12.0, 10, 42, 40],  # IoU with the first 28 * 30 / (32 * 30)
        [60.0, 60, 90, 90],
        [100.0, 10, 130, 40],  # empty inside the image
        [5.0, 60, 30, 90],
        [50.0, 5, 70, 20],
        [0.0, 0, 9, 9],
    ]
)


class FixedRPNHead(nn.Module):
    """Gives the same logits whatever it sees, for levels of one row of cells."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [torch.tensor(level)[None, None, None].expand(len(features[0]), -1, -1, -1) for level in self.logits]
        return logits, [torch.zeros(len(level), 4, 1, level.shape[3]) for level in logits]


class FixedAnchors:
    """One anchor per cell, as given."""

    def __init__(self, levels: list[Tensor]) -> None:
        self.levels = levels
        self.anchors_per_cell = [1] * len(levels)

    def __call__(self, features: list[Tensor]) -> list[Tensor]:  # noqa: ARG002
        return self.levels


def propose(logits: list[list[float]], levels: list[Tensor], *, joint: bool = False) -> tuple[StageReport, Proposals]:
    selection = ProposalSelection(CODER, pre_nms_topk=6, post_nms_topk=2, iou_threshold=0.7, joins_levels=joint)
    rpn = RPN(
        FixedRPNHead(logits),
        in_features=[str(number) for number in range(len(levels))],
        anchors=FixedAnchors(levels),
        labeler=None,  # type: ignore[arg-type]
        coder=CODER,
        box_loss=None,  # type: ignore[arg-type]
        training_selection=selection,
        test_selection=selection,
    )
    features = {str(number): torch.zeros(1, 1, 1, len(level)) for number, level in enumerate(levels)}
    recording = Recording()
    (proposals,) = rpn.predict(features, Batch(torch.zeros(1, 3, 100, 100), [SIZE], None, None), recorder=recording)
    (report,) = recording.reports
    return report, proposals


def test_proposals_by_hand() -> None:
    report, proposals = propose([[5.0, 4.0, 3.0, 2.0, 1.0, math.nan, -9.0]], [BOXES])
    assert (report.stage, report.image, report.image_size) == ("proposals", 0, SIZE)
    assert report.fates.tolist() == [K, G, K, S, L, N, T]
    assert report.suppressed_by.tolist() == [-1, 0, -1, -1, -1, -1, -1]
    assert report.kept.tolist() == [0, 2]
    assert report.sources.tolist() == list(range(7))
    assert torch.equal(report.boxes[report.kept], proposals.boxes)
    assert torch.equal(report.scores[report.kept], proposals.objectness)
    assert report.counts() == {
        "kept": 2, "not_finite": 1, "not_in_top_k": 1, "too_small": 1, "suppressed": 1, "beyond_limit": 1
    }  # fmt: skip


@pytest.mark.parametrize(("joint", "fates", "by"), [(False, [K, K], [-1, -1]), (True, [K, G], [-1, 0])])
def test_levels_suppress_each_other_only_across_levels(joint: bool, fates: list[int], by: list[int]) -> None:
    report, _ = propose([[2.0], [1.0]], [BOXES[:1], BOXES[1:2]], joint=joint)
    assert report.fates.tolist() == fates
    assert report.suppressed_by.tolist() == by
    assert report.classes.tolist() == [0, 1]  # the levels


def test_boxes_of_regions_by_hand() -> None:
    # Two classes. The first three regions overlap or not as above; the fourth is empty; the fifth has no class above.
    scores = torch.tensor([[0.9, 0.3], [0.8, 0.1], [0.6, 0.0], [0.5, 0.0], [0.05, 0.15], [0.4, 0.0], [math.nan, 0.0]])
    recording = Recording()
    selection = DetectionSelection(GreedySuppression(0.5), score_threshold=0.2, max_detections=2, min_size=0.01)
    predictions = RegionPredictions(scores, torch.zeros(7, 4), [Proposals(SIZE, BOXES, torch.zeros(7))])
    (found,) = selection.select(predictions, CODER, recorder=recording)
    (report,) = recording.reports
    rows = list(zip(report.sources.tolist(), report.classes.tolist(), report.fates.tolist(), strict=True))
    assert rows == [
        (0, 0, K), (0, 1, L), (1, 0, G), (2, 0, K), (3, 0, S), (5, 0, L),  # above the threshold
        (4, 1, B), (6, 1, N),  # the best class of the others
    ]  # fmt: skip
    assert report.suppressed_by.tolist() == [-1, -1, 0, -1, -1, -1, -1, -1]
    assert torch.equal(report.boxes[report.kept], found.boxes)
    assert torch.equal(report.scores[report.kept], found.scores)


def test_boxes_of_anchors_by_hand() -> None:
    # Two levels; the first has places for two candidates.
    logits = [
        torch.tensor([[2.0, -9], [1.0, -9], [0.5, -9], [-9, -8]])[None],
        torch.tensor([[-9.0, 0.2], [math.inf, -9], [0.1, -9]])[None],
    ]
    anchors = [BOXES[[0, 1, 2, 4]], BOXES[[4, 5, 1]]]
    selection = DenseSelection(
        GreedySuppression(0.5), coder=CODER, score_threshold=0.5, candidates_per_level=2, max_detections=1
    )
    recording = Recording()
    deltas = [torch.zeros(1, len(level), 4) for level in anchors]
    (found,) = selection.select(logits, deltas, anchors, [SIZE], recorder=recording)
    (report,) = recording.reports
    rows = list(zip(report.sources.tolist(), report.classes.tolist(), report.fates.tolist(), strict=True))
    assert rows == [(0, 0, K), (1, 0, G), (2, 0, T), (4, 1, L), (6, 0, G), (3, 1, B), (5, 0, N)]
    assert report.suppressed_by.tolist() == [-1, 0, -1, -1, 0, -1, -1]
    assert torch.equal(report.boxes[report.kept], found.boxes)


DETECTORS = {
    "StandardROIHeads": ["proposals", "boxes", "original size"],
    "CascadeROIHeads": ["proposals", "boxes of stage 0", "boxes of stage 1", "boxes", "original size"],
    "Res5ROIHeads": ["proposals", "boxes", "original size"],
    "RetinaNet": ["boxes", "original size"],
    "ProposalNetwork": ["proposals"],
}
SETTINGS: dict[str, tuple[Any, ...]] = {
    "StandardROIHeads": (),
    "CascadeROIHeads": ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    "Res5ROIHeads": (
        *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p4"]),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 2),
    ),
    "RetinaNet": (
        *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", False, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
        *(
            "MODEL.BACKBONE.NAME",
            "build_retinanet_resnet_fpn_backbone",
            "MODEL.FPN.IN_FEATURES",
            ["res3", "res4", "res5"],
        ),
        *("MODEL.RETINANET.TOPK_CANDIDATES_TEST", 30, "MODEL.RETINANET.NUM_CLASSES", 5),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[16, 20], [32, 40], [64, 80], [128, 160], [256, 320]]),
    ),
    "ProposalNetwork": ("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.MASK_ON", False),
}


@pytest.fixture(params=DETECTORS)
def detector(request: pytest.FixtureRequest, small_cfg: Callable[..., CfgNode]) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, build_model(small_cfg(*SETTINGS[request.param])).eval()


def samples(count: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 64, 80), generator=generator, dtype=torch.uint8) for _ in range(count)]
    return [Sample(image, number, (128, 160)) for number, image in enumerate(images)]


def test_reports_of_a_detector_agree_with_its_detections(detector: tuple[str, nn.Module]) -> None:
    name, model = detector
    plain, recording = model.predict(samples(2)), Recording()  # type: ignore[operator]
    found = model.predict(samples(2), recorder=recording)  # type: ignore[operator]
    assert [report.stage for report in recording.reports if report.image == 1] == DETECTORS[name]
    for image, (table, same) in enumerate(zip(found, plain, strict=True)):
        assert torch.equal(table.boxes, same.boxes)
        assert torch.equal(table.scores, same.scores)
        reports = list(recording.of_image(image).values())
        for report, following in itertools.pairwise(reports):
            assert int(following.sources.max()) < len(report.kept)
        last = reports[-1]
        if name != "ProposalNetwork":
            assert torch.equal(last.boxes[last.kept], table.boxes)
            assert torch.equal(last.scores[last.kept], table.scores)
        for report in reports:
            check_suppressors(report)


VALUES = {
    "StandardROIHeads": ["features", "anchors", "box pooling", "class scores", "mask_head pooling"],
    "CascadeROIHeads": ["features", "anchors", "box pooling", "class scores", "mask_head pooling"],
    "Res5ROIHeads": ["features", "anchors", "box pooling", "class scores"],
    "RetinaNet": ["features", "anchors"],
    "ProposalNetwork": ["features", "anchors"],
}


def test_values_belong_to_the_reports(detector: tuple[str, nn.Module]) -> None:
    name, model = detector
    recording = Recording()
    found = model.predict(samples(2), recorder=recording)  # type: ignore[operator]
    assert [values.stage for values in recording.values if values.image == 1] == VALUES[name]
    for image, table in enumerate(found):
        reports, values = recording.of_image(image), recording.values_of_image(image)
        first = next(iter(reports.values()))
        anchors = values["anchors"].values["boxes"]
        assert int(first.sources.max()) < len(anchors)
        if first.stage == "proposals":  # whose classes are the levels
            assert torch.equal(values["anchors"].values["levels"][first.sources], first.classes)
        else:
            assert values["anchors"].values["levels"].unique().tolist() == [0, 1, 2, 3, 4]
        sizes = {key: tuple(m.shape[1:]) for key, m in values["features"].values.items()}
        assert sizes == {key: (-(-64 // s), -(-96 // s)) for key, s in values["features"].settings["strides"].items()}
        if "class scores" not in values:
            continue
        scores, boxes = values["class scores"].values["scores"], reports["boxes"]
        assert torch.equal(scores[boxes.sources, boxes.classes], boxes.scores)
        proposals = reports["proposals"]
        assert torch.equal(values["box pooling"].values["boxes"], proposals.boxes[proposals.kept])
        if "mask_head pooling" in values:
            of_masks = values["mask_head pooling"]
            assert of_masks.settings["side"] == 14
            assert torch.equal(of_masks.values["boxes"], boxes.boxes[boxes.kept])
            assert len(of_masks.values["levels"]) == len(table)


def check_suppressors(report: StageReport) -> None:
    is_suppressed = report.fates == Fate.SUPPRESSED
    assert (report.suppressed_by[~is_suppressed] == -1).all()
    by = report.suppressed_by[is_suppressed]
    assert (by >= 0).all()
    assert (report.scores[by] >= report.scores[is_suppressed]).all()
    assert torch.equal(report.classes[by], report.classes[is_suppressed])
    for row, other in zip(is_suppressed.nonzero().flatten().tolist(), by.tolist(), strict=True):
        assert box_ops.iou(report.boxes[[row]], report.boxes[[other]]).item() > 0.49


class OperationsByFunction(TorchDispatchMode):
    """The functions of the package that call operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frames = [frame for frame in traceback.extract_stack() if "/mrcnn_zoo/" in frame.filename]
        self.functions += [(frame.filename.rsplit("/", 1)[1], frame.name) for frame in frames]
        return func(*args, **(kwargs or {}))


REPORTING = {
    "_report",
    "_report_scores",
    "_report_pooling",
    "_image_scores",
    "_report_moved",
    "_selected",
    "suppressors",
    "best_overlapping",
    "_sources",
}


def reporting_operations(model: nn.Module, recorder: Recording | None) -> tuple[int, int]:
    with OperationsByFunction() as operations:
        model.predict(samples(1), recorder=recorder)  # type: ignore[operator]
    reporting = [
        f for f in operations.functions if (f[0] == "recording.py" and f[1] != "recorded") or f[1] in REPORTING
    ]
    return len(operations.functions), len(reporting)


def test_without_a_recorder_nothing_is_computed_for_it(detector: tuple[str, nn.Module]) -> None:
    total, reporting = reporting_operations(detector[1], None)
    assert total > 100
    assert reporting == 0
    assert reporting_operations(detector[1], Recording())[1] > 0


class ForeignGenerator(nn.Module):
    """A user's, which knows no recorder."""

    needs_targets = False

    def losses(self, features: Any, batch: Batch) -> Any:
        raise NotImplementedError

    def predict(self, features: Any, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        return [Proposals(size, BOXES[:3] / 2, torch.zeros(3)) for size in batch.image_sizes]


def test_a_component_without_a_recorder_is_called_without(small_cfg: Callable[..., CfgNode]) -> None:
    model = build_model(small_cfg("MODEL.PROPOSAL_GENERATOR.NAME", f"{__name__}:build_foreign_generator")).eval()
    recording = Recording()
    model.predict(samples(1), recorder=recording)  # type: ignore[operator]
    assert [report.stage for report in recording.reports] == ["boxes", "original size"]


def build_foreign_generator(cfg: CfgNode, specs: Any) -> ForeignGenerator:  # noqa: ARG001
    return ForeignGenerator()
