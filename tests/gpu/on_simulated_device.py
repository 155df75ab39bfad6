"""Device tests without a GPU: no operation mixes devices, and the host rarely synchronises.

test_simulated_device.py runs these tests in a separate process.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dev.generated_samples import generated_samples
from mrcnn_zoo import registries
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.evaluation.funnel.lost_objects import trace_objects
from mrcnn_zoo.inference.tta import build_augmented_detector
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.contracts import LearnsFromClassCounts
from mrcnn_zoo.modeling.recording import Recording
from mrcnn_zoo.ops import nms
from mrcnn_zoo.registry import Registry
from mrcnn_zoo.structures import Detections, Proposals, Sample, Targets
from mrcnn_zoo.training.averaging import WeightsAverage
from mrcnn_zoo.training.gradients import clip_each_norm, clip_total_norm
from mrcnn_zoo.training.hook import Hook
from mrcnn_zoo.training.hooks.nonfinite import StopOnNonFinite
from support.simulated_device import SimulatedDevice, SimulatedTensor, move_to_device
from support.tiny_trainer import make_trainer

MAX_SYNCHRONIZATIONS = {"training": 10, "prediction": 8}  # of a step and of a call, for any batch size
CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.MASK_ON", True, "TEST.DETECTIONS_PER_IMAGE", 10),
    *("MODEL.BACKBONE.NAME", "build_plain_cnn_fpn_backbone", "MODEL.PLAIN_CNN.OUT_FEATURES", ["conv3", "conv4"]),
    *("MODEL.PLAIN_CNN.CHANNELS", [4, 4, 8, 8], "MODEL.FPN.IN_FEATURES", ["conv3", "conv4"]),
    *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64]], "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3"]),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 30),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 4, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 6),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
    *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8]),
    *("MODEL.ROI_MASKIOU_HEAD.CONV_DIM", 8, "MODEL.ROI_MASKIOU_HEAD.FC_DIM", 16),
)
# Config keys that select a component of each registry.
KEYS: dict[str, tuple[str, ...]] = {
    "DETECTORS": ("MODEL.META_ARCHITECTURE",),
    "PROPOSAL_GENERATORS": ("MODEL.PROPOSAL_GENERATOR.NAME",),
    "ANCHOR_GENERATORS": ("MODEL.ANCHOR_GENERATOR.NAME",),
    "RPN_HEADS": ("MODEL.RPN.HEAD_NAME",),
    "SAMPLERS": ("MODEL.RPN.SAMPLER", "MODEL.ROI_HEADS.SAMPLER"),
    "MATCHERS": ("MODEL.RPN.MATCHER", "MODEL.ROI_HEADS.MATCHER"),
    "BOX_CODERS": ("MODEL.RPN.BOX_CODER", "MODEL.ROI_BOX_HEAD.BOX_CODER"),
    "BOX_LOSSES": ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"),
    "POOLING_OPERATIONS": ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "MODEL.ROI_MASK_HEAD.POOLER_TYPE"),
    "ROI_HEADS": ("MODEL.ROI_HEADS.NAME",),
    "BOX_HEADS": ("MODEL.ROI_BOX_HEAD.NAME",),
    "REGION_CLASSIFICATIONS": ("MODEL.ROI_BOX_HEAD.CLS_LOSS_TYPE",),
    "MASK_HEADS": ("MODEL.ROI_MASK_HEAD.NAME",),
    "MASK_LOSSES": ("MODEL.ROI_MASK_HEAD.LOSS",),
    "KEYPOINT_HEADS": ("MODEL.ROI_KEYPOINT_HEAD.NAME",),
    "REGION_BRANCHES": ("MODEL.ROI_HEADS.BRANCHES",),
    "SUPPRESSIONS": ("MODEL.ROI_HEADS.SUPPRESSION",),
}
# Further settings that a component requires.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "CascadeROIHeads": ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    "Res5ROIHeads": (
        "MODEL.ROI_HEADS.IN_FEATURES",
        ["p4"],
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        2,
        "MODEL.RESNETS.DEPTH",
        18,
    ),
    "PointRendMaskHead": (
        *("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True, "MODEL.ROI_MASK_HEAD.FC_DIM", 8, "MODEL.POINT_HEAD.FC_DIM", 8),
        *("MODEL.POINT_HEAD.SUBDIVISION_STEPS", 3, "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", 100),
    ),
    "KRCNNConvDeconvUpsampleHead": ("MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False),
    "PrecomputedProposals": ("MODEL.LOAD_PROPOSALS", True),
    "MultiBox": ("MODEL.MULTIBOX.IN_FEATURES", ["p2", "p3", "p4"], "MODEL.MULTIBOX.MATCHING", "predictions"),
    "SlidingWindow": ("MODEL.SLIDING_WINDOW.SIZES", [24, 32]),
    "ProposalNetwork": ("MODEL.MASK_ON", False),
    "Classifier": ("MODEL.MASK_ON", False, "MODEL.CLASSIFIER.NUM_CLASSES", 5),
    "RetinaNet": (
        *("MODEL.MASK_ON", False, "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"], "MODEL.RETINANET.NUM_CLASSES", 5),
        *("MODEL.RETINANET.NUM_CONVS", 1),
    ),
}
FURTHER: dict[str, tuple[Any, ...]] = {
    "border anchors": ("MODEL.RPN.BOUNDARY_THRESH", 0),
    "ranking by probability": ("MODEL.RPN.RANK_BY", "probability", "MODEL.RPN.CLS_LOSS_TYPE", "focal"),
    "one level for all": ("MODEL.RPN.ACROSS_LEVELS", True, "MODEL.ROI_HEADS.MIN_SIZE_TEST", 5.0),
    "predicted boxes": ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True),
    "clipped RetinaNet": (
        *("MODEL.META_ARCHITECTURE", "RetinaNet", *SETTINGS["RetinaNet"], "MODEL.RETINANET.CLIP_BEFORE_NMS", True),
        *("MODEL.RETINANET.SUPPRESSION", "soft_linear"),
    ),
}


DETECTORS: dict[str, tuple[Any, ...]] = {
    "Mask R-CNN": (),
    "Cascade Mask R-CNN": ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", *SETTINGS["CascadeROIHeads"]),
    "RetinaNet": ("MODEL.META_ARCHITECTURE", "RetinaNet", *SETTINGS["RetinaNet"]),
    "Keypoint R-CNN": SETTINGS["KRCNNConvDeconvUpsampleHead"],
}
Compared = tuple[Any, CfgNode, tuple[int, ...]]  # a model, its config, batch sizes
NOT_SLOW = ("CascadeROIHeads", "RetinaNet", "KRCNNConvDeconvUpsampleHead")  # besides Mask R-CNN


def cases() -> Iterator[Any]:
    """The small Mask R-CNN, and one model per registered component that it does not contain."""
    cfg = small_config()
    yield pytest.param((), id="Mask R-CNN")
    for registry, keys in KEYS.items():
        names: Registry = getattr(registries, registry)
        for name in names:
            value = [name] if registry == "REGION_BRANCHES" else name
            is_default = registry != "KEYPOINT_HEADS" and all(cfg.value_of(key) == value for key in keys)
            if not is_default:
                overrides = [item for key in keys for item in (key, value)]
                marks = () if name in NOT_SLOW else pytest.mark.slow
                yield pytest.param((*overrides, *SETTINGS.get(name, ())), id=name, marks=marks)
    for name, settings in FURTHER.items():
        yield pytest.param(settings, id=name, marks=pytest.mark.slow)


def small_config(*overrides: Any) -> CfgNode:
    return load_config(CONFIGS / "Base-RCNN-FPN.yaml", [*SMALL, *overrides])


def scenes(count: int, cfg: CfgNode) -> list[Sample]:
    """Images of two sizes, the second without objects, with proposals on, near and away from the objects."""
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0
    settings: dict[str, Any] = {"num_classes": 5, "num_objects": 4, "num_keypoints": keypoints}
    samples = generated_samples(count, image_size=(48, 64), **settings)
    if count > 1:
        samples[-1] = generated_samples(1, image_size=(56, 40), seed=1, **settings)[0]
        assert samples[1].targets is not None
        samples[1] = replace(samples[1], targets=samples[1].targets[:0]) if count > 2 else samples[1]
    return [replace(sample, original_size=(100, 150), proposals=proposals_near(sample)) for sample in samples]


def proposals_near(sample: Sample) -> Proposals:
    targets: Targets | None = sample.targets
    assert targets is not None
    boxes = torch.cat((targets.boxes, targets.boxes + 3, torch.tensor([[0.0, 0, 30, 20], [10, 10, 40, 45]])))
    return Proposals(sample.image_size, boxes, torch.zeros(len(boxes)))


def train_and_predict(model: Any, samples: list[Sample]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Losses and detections, on the host; parameters have gradients afterwards."""
    for module in model.modules():
        if isinstance(module, LearnsFromClassCounts):
            module.set_class_counts(torch.arange(1, 6, device=model.collate.pixel_mean.device))
    torch.manual_seed(0)
    output = model.train().losses(samples)
    if output.losses:
        output.total().backward()
    losses = {name: loss.item() for name, loss in output.losses.items()}
    return losses, columns_on_cpu(model.eval().predict(samples))


def columns_on_cpu(tables: Sequence[Detections]) -> list[dict[str, Any]]:
    """The columns of each table on the CPU; checks that masks can be encoded as RLE."""
    columns = ("boxes", "scores", "classes", "keypoints", "mask_scores")
    found = [
        {name: getattr(table, name).cpu() for name in columns if getattr(table, name) is not None} for table in tables
    ]
    for table, numbers in zip(tables, found, strict=True):
        if table.masks is not None:
            assert len(table.masks.rles()) == len(table)
            numbers["probabilities"] = table.masks.probabilities.cpu()
    return found


@pytest.mark.parametrize("overrides", list(cases()))
def test_component_gives_equal_results_on_cpu_and_device(overrides: tuple[Any, ...]) -> None:
    cfg = small_config(*overrides)
    samples = scenes(3, cfg)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model(cfg))
    is_proposal_network = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork"
    losses, found = train_and_predict(models[0], samples)
    move_to_device(models[1])
    with SimulatedDevice():
        device_losses, device_found = train_and_predict(models[1], samples)

    assert device_losses == pytest.approx(losses, rel=1e-4)
    trained = [(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True) if b.grad is not None]
    assert trained
    for expected, gradient in ((a.grad, b.grad) for a, b in trained):
        assert isinstance(gradient, SimulatedTensor)
        torch.testing.assert_close(gradient.host_tensor, expected, rtol=1e-3, atol=1e-4)
    assert sum(len(table["scores"]) for table in found) > 0
    assert is_proposal_network or all(len(table["scores"]) <= 10 for table in found)
    for on_device, on_cpu in zip(device_found, found, strict=True):
        torch.testing.assert_close(on_device, on_cpu, rtol=1e-4, atol=1e-3)


def all_predictions(model: nn.Module, cfg: CfgNode) -> list[dict[str, Any]]:
    """Predictions in given boxes and with test-time augmentation, both combined, and a recorded and traced one."""
    samples = [replace(sample, original_size=sample.image_size) for sample in scenes(3, cfg)]
    boxes = [proposals_near(sample).boxes for sample in samples]
    classes = [torch.arange(len(table)) % 6 - 1 for table in boxes]
    augmented: Any = build_augmented_detector(cfg, model)
    recording = Recording()
    detector: Any = model.eval()
    found = detector.predict_in_boxes(samples, boxes, classes) + augmented.predict(samples)
    recorded = detector.predict(samples, recorder=recording)
    found += augmented.predict_in_boxes(samples, boxes, classes) + recorded
    reports = [{"fates": r.fates.cpu(), "kept": r.kept.cpu(), "by": r.suppressed_by.cpu()} for r in recording.reports]
    traces = [
        trace_objects(recording.of_image(image), recording.values_of_image(image), table, sample.targets)
        for image, (table, sample) in enumerate(zip(recorded, samples, strict=True))
    ]
    ious = [torch.tensor([[best.iou for best in trace.best.values()] for trace in image]) for image in traces]
    return [*columns_on_cpu(found), *reports, *({"best IoU by stage": table} for table in ious)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        (),
        DETECTORS["Cascade Mask R-CNN"],
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", *SETTINGS["Res5ROIHeads"]),
        ("MODEL.ROI_HEADS.BRANCHES", ["MaskIoUHead"]),
        ("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", *SETTINGS["PointRendMaskHead"]),
        (*DETECTORS["Keypoint R-CNN"], "TEST.AUG.FLIP", False),
    ],
    ids=["standard", "cascade", "res5", "mask scoring", "PointRend", "keypoints"],
)
def test_predictions_in_boxes_tta_and_recording_equal_cpu(settings: tuple[Any, ...]) -> None:
    views = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", [0, 80], "TEST.AUG.FLIP", True, "INPUT.MIN_SIZE_TEST", 48)
    cfg = small_config(*views, *settings)
    torch.manual_seed(0)
    model = build_model(cfg)
    on_cpu = all_predictions(model, cfg)
    move_to_device(model)
    with SimulatedDevice():
        on_device = all_predictions(model, cfg)
    assert sum(len(table.get("scores", ())) for table in on_cpu) > 0
    for found, expected in zip(on_device, on_cpu, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


MARKED = [
    pytest.param(DETECTORS[name], id=name, marks=() if "Mask" in name else pytest.mark.slow) for name in DETECTORS
]


@pytest.fixture(scope="module", params=MARKED)
def detector(request: pytest.FixtureRequest) -> Compared:
    torch.manual_seed(0)
    cfg = small_config(*request.param)
    return move_to_device(build_model(cfg)), cfg, (1, 4) if request.param else (1, 2, 4)


def test_prediction_waits_at_most_8_times_for_any_batch_size(detector: Compared) -> None:
    model, cfg, batch_sizes = detector
    model.eval()
    counts = {}
    for batch_size in batch_sizes:
        with SimulatedDevice() as device:
            tables = model.predict(scenes(batch_size, cfg))
        assert all(len(table) for table in tables)
        counts[batch_size] = device.synchronizations
        # The images one by one, the targets and proposals of all together.
        assert device.copies_in("structures/samples.py", "ops/transfer.py") == batch_size + 2
    check_synchronizations("prediction", counts, device)


def test_training_step_waits_at_most_10_times_for_any_batch_size(detector: Compared, tmp_path: Path) -> None:
    """With the optimizer, the clipping of gradients, the check of losses and gradients, and an average of weights."""
    model, cfg, batch_sizes = detector
    counts: dict[int, int] = {}
    for batch_size in batch_sizes:
        samples, after_steps = scenes(batch_size, cfg), []
        with SimulatedDevice() as device:
            note = after_steps.append
            counter = type("Counter", (Hook,), {"after_step": lambda *_, d=device, note=note: note(d.synchronizations)})
            trainer = make_trainer(
                folder=tmp_path,
                model=model,
                budget=2,
                open_batches=lambda _, samples=samples: repeat(samples),
                hooks={"StopOnNonFinite": StopOnNonFinite(tmp_path), "counter": counter()},
                clipper=partial(clip_total_norm, limit=10.0, norm_type=2.0),
            )
            groups = [{"params": list(model.parameters()), "initial_lr": 1e-4}]
            trainer.updater.optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.9, fused=True)
            trainer.average = WeightsAverage(model, decay=0.9)
            trainer.train()
        counts[batch_size] = after_steps[1] - after_steps[0]  # the first step has no step before
    check_synchronizations("training", counts, device)


def check_synchronizations(task: str, counts: dict[int, int], device: SimulatedDevice) -> None:
    """Print the places of the largest batch, for dev/BENCHMARKS.md, and check the numbers by batch size."""
    print(f"\n{task}, synchronisations by batch size: {counts}\n{device.report()}")
    assert len(set(counts.values())) == 1
    assert 0 < counts[4] <= MAX_SYNCHRONIZATIONS[task]


def test_cascade_ignores_boxes_that_leave_the_image_as_the_cpu_drops_them() -> None:
    cfg = small_config(*DETECTORS["Cascade Mask R-CNN"])
    samples = scenes(3, cfg)
    losses = []
    for move in (lambda model: model, move_to_device):
        torch.manual_seed(0)
        model: Any = build_model(cfg)
        for predictor in model.roi_heads.box_predictor:
            torch.nn.init.normal_(predictor.bbox_pred.weight, std=3)  # moves boxes by more than their size
        move(model)
        with SimulatedDevice():
            losses.append(train_and_predict(model, samples)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("max_boxes", [1000, 100, 30])
@pytest.mark.parametrize("has_bounds", [True, False])
def test_chunked_nms_equals_nms_per_image(max_boxes: int, has_bounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms, "MAX_BOXES_PER_GPU_CALL", max_boxes)
    generator, counts = torch.Generator().manual_seed(0), [60, 0, 45, 70]
    corners = torch.rand((175, 2), generator=generator) * 30
    boxes = torch.cat((corners, corners + 10), dim=1)
    scores, groups = torch.rand(175, generator=generator), torch.randint(0, 3, (175,), generator=generator)
    bounds: dict[str, Any] = {"num_groups": 3, "bounds": (0, 40)} if has_bounds else {}
    expected = nms.nms_of_images(boxes, scores, groups, counts=counts, iou_threshold=0.5)
    on_device = [SimulatedTensor(values) for values in (boxes, scores, groups)]
    with SimulatedDevice() as device:
        found = nms.nms_of_images(*on_device, counts=counts, iou_threshold=0.5, **bounds)
    assert found.host_tensor.tolist() == expected.tolist()
    assert max_boxes < 1000 or device.synchronizations == (1 if has_bounds else 2), device.report()


def test_clipping_optimizer_and_ema_mix_no_devices() -> None:
    model = move_to_device(build_model(small_config()))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = trained[0].host_tensor.clone()
    with SimulatedDevice():
        model.losses(scenes(2, small_config())).total().backward()
        clip_each_norm(trained, limit=1.0, norm_type=2.0)
        torch.optim.SGD(trained, lr=0.1, momentum=0.9).step()
        WeightsAverage(model, decay=0.9).update(model)
    assert all(parameter.grad.host_tensor.norm() <= 1.001 for parameter in trained)
    assert not torch.equal(trained[0].host_tensor, before)


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        (lambda device: device.nonzero(), 1),
        (lambda device: device[device > 1], 1),
        (lambda device: float(device.sum()), 1),
        (lambda device: device.tolist(), 1),
        (lambda device: device.cpu(), 1),
        (lambda device: bool((device > 1).all()), 1),
        (lambda device: device.repeat_interleave(device.long()), 1),
        (lambda device: device.repeat_interleave(device.long(), output_size=6), 0),
        (lambda device: torch.nonzero_static(device > 1, size=2), 0),
        (lambda device: device[device.argsort()] + 1, 0),
        (lambda device: device + torch.tensor(2.0), 0),
    ],
)
def test_device_counts_synchronizations(operation: Callable[[Tensor], object], count: int) -> None:
    tensor = SimulatedTensor(torch.tensor([1.0, 2, 3]))
    with SimulatedDevice() as device:
        operation(tensor)
    assert device.synchronizations == count, device.report()


def test_operations_with_cpu_tensors_and_numpy_raise() -> None:
    tensor = SimulatedTensor(torch.ones(3))
    with SimulatedDevice():
        with pytest.raises(RuntimeError, match="two devices"):
            tensor + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            tensor.numpy()
        assert torch.ones(2, device=tensor.device).device == tensor.device == tensor.new_tensor([1]).device
