"""Two processes give the gradients of one with the whole batch: every loss, SyncBN, BN, accumulation, AMP."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Sample, Targets, TrainingOutput
from mrcnn_zoo.training.optimizer import build_optimizer
from mrcnn_zoo.training.reduction import with_averaged_gradients
from mrcnn_zoo.training.step import Updater, build_precision
from support.processes import run_in_processes
from support.scenes import filled_boxes

SIDE = 64
SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 4, "MODEL.RESNETS.NORM", "SyncBN", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8], "MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.RETINANET.NUM_CLASSES", 3),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 30, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 2),
    # Every anchor and every region is sampled, so that nothing is left to chance.
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100_000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100_000),
)
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
SCORING = (
    *("MODEL.ROI_HEADS.BRANCHES", ["MaskIoUHead"], "MODEL.ROI_MASKIOU_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_MASKIOU_HEAD.FC_DIM", 16),
)
BATCH_NORM = "batch norm"
CASES: dict[str, tuple[str, tuple[Any, ...], float]] = {  # config, settings, tolerance
    "mask": (MASK_RCNN, (), 1e-4),
    "mask scoring": (MASK_RCNN, SCORING, 1e-4),
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", (), 1e-4),
    "keypoint": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", (), 1e-4),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", (), 1e-4),
    "AMP": (MASK_RCNN, ("SOLVER.AMP.ENABLED", True), 5e-2),
    BATCH_NORM: (MASK_RCNN, ("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"), 1e-4),
}
SAME_AS_ONE = tuple(name for name in CASES if name != BATCH_NORM)


def sample(number: int) -> Sample:
    """An image with one to three objects, another number in each image."""
    generator = torch.Generator().manual_seed(number)
    count = 1 + number % 3
    image = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    corners = torch.rand((count, 2), generator=generator) * 30
    boxes = torch.cat((corners, corners + 12 + torch.rand((count, 2), generator=generator) * 20), dim=1)
    points = torch.stack((boxes[:, :2] + 3, boxes[:, 2:] - 3), dim=1)
    keypoints = torch.cat((points, torch.full((count, 2, 1), 2.0)), dim=2)
    classes = torch.randint(0, 3, (count,), generator=generator)
    targets = Targets((SIDE, SIDE), boxes, classes, masks=filled_boxes(boxes, (SIDE, SIDE)), keypoints=keypoints)
    return Sample(image, number, (SIDE, SIDE), targets=targets)


# Two passes make a step. The whole batch of each, and the shares of two processes, which differ in length.
WHOLE = [[0, 1, 2], [3, 4, 5]]
SHARES = ([[0, 1], [3]], [[2], [4, 5]])


def build(cfg: CfgNode) -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return build_model(cfg).train()


def gradients(name: str, passes: list[list[int]]) -> dict[str, Tensor]:
    """Of one step of this process, averaged over the processes."""
    config, settings, _ = CASES[name]
    cfg = load_config(config, [*SMALL, *settings])
    model = build(cfg)
    updater = Updater(build_optimizer(cfg, model), precision=build_precision(cfg, torch.device("cpu")))
    updater.compute_gradients(with_averaged_gradients(model), [[sample(n) for n in images] for images in passes])
    return gradients_of(model) | (running_statistics(model) if name == BATCH_NORM else {})


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if ".running_" in name}


def train_a_share(rank: int) -> dict[str, dict[str, Tensor]]:
    return {name: gradients(name, SHARES[rank]) for name in (*SAME_AS_ONE, BATCH_NORM)}


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    return run_in_processes(train_a_share, folder=tmp_path_factory.mktemp("shares"))


@pytest.mark.parametrize("name", SAME_AS_ONE)
def test_two_processes_give_the_gradients_of_one(name: str, shares: list[dict[str, dict[str, Tensor]]]) -> None:
    alone, tolerance = gradients(name, WHOLE), CASES[name][2]
    first, second = (share[name] for share in shares)
    assert alone.keys() == first.keys() == second.keys()
    largest = max(value.norm() for value in alone.values())
    for parameter, expected in alone.items():
        assert torch.equal(first[parameter], second[parameter])
        assert_close(first[parameter], expected, tolerance=tolerance, largest=largest, name=parameter)


def assert_close(found: Tensor, expected: Tensor, *, tolerance: float, largest: Tensor, name: str) -> None:
    error = (found - expected).norm()
    assert error <= tolerance * expected.norm() + 1e-3 * tolerance * largest, (name, error, expected.norm())


def test_batch_norm_normalises_each_share_by_itself_and_losses_are_divided_by_the_counts_of_both(
    shares: list[dict[str, dict[str, Tensor]]],
) -> None:
    """Statistics of plain BN are those of a process's own images; weights and losses are those of the whole batch.

    So the gradients equal those of one process that normalises the shares one by one, and running statistics differ.
    """
    config, settings, tolerance = CASES[BATCH_NORM]
    cfg = load_config(config, [*SMALL, *settings])
    model, others = build(cfg), [build(cfg) for _ in SHARES]
    for own, other in zip(*SHARES, strict=True):
        outputs = [model.losses([sample(n) for n in images]) for images in (own, other)]
        (summed_loss(outputs) / len(WHOLE)).backward()
    for share, alone in zip(SHARES, others, strict=True):
        for images in share:
            alone.losses([sample(n) for n in images])
    first, second = (share[BATCH_NORM] for share in shares)
    expected = gradients_of(model)
    largest = max(value.norm() for value in expected.values())
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        assert_close(first[name], value, tolerance=tolerance, largest=largest, name=name)
    assert first.keys() - expected.keys() == running_statistics(model).keys() != set()
    for found, alone in zip((first, second), others, strict=True):
        torch.testing.assert_close({name: found[name] for name in running_statistics(alone)}, running_statistics(alone))
    assert not all(torch.equal(first[name], second[name]) for name in running_statistics(model))


def summed_loss(outputs: list[TrainingOutput]) -> Tensor:
    """Each loss summed over the shares and divided by the items of all of them."""
    total = torch.zeros(())
    for name in outputs[0].sums:
        sums = [output.sums[name] for output in outputs]
        count = sum(float(loss.count) for loss in sums)  # type: ignore[arg-type]
        total = total + sum(loss.value for loss in sums) / max(count, 1.0)
    return total
