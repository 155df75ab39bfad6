"""Two processes give the gradients of one with the whole batch: every loss, trained batch norm, accumulation, AMP."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import BoxedBitmaps, Sample, Targets
from mrcnn_zoo.training.distributed import with_averaged_gradients
from mrcnn_zoo.training.optimizer import build_optimizer
from mrcnn_zoo.training.precision import build_precision
from mrcnn_zoo.training.updater import Updater

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
CASES: dict[str, tuple[str, tuple[Any, ...], float]] = {  # config, settings, tolerance
    "mask": (MASK_RCNN, (), 1e-4),
    "mask scoring": (MASK_RCNN, SCORING, 1e-4),
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", (), 1e-4),
    "keypoint": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", (), 1e-4),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", (), 1e-4),
    "AMP": (MASK_RCNN, ("SOLVER.AMP.ENABLED", True), 5e-2),
}


def sample(number: int) -> Sample:
    """An image with one to three objects, another number in each image."""
    generator = torch.Generator().manual_seed(number)
    count = 1 + number % 3
    image = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    corners = torch.rand((count, 2), generator=generator) * 30
    boxes = torch.cat((corners, corners + 12 + torch.rand((count, 2), generator=generator) * 20), dim=1)
    bitmaps = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes.int().tolist(), strict=True):
        bitmap[y0:y1, x0:x1] = True
    points = torch.stack((boxes[:, :2] + 3, boxes[:, 2:] - 3), dim=1)
    keypoints = torch.cat((points, torch.full((count, 2, 1), 2.0)), dim=2)
    classes = torch.randint(0, 3, (count,), generator=generator)
    targets = Targets((SIDE, SIDE), boxes, classes, masks=BoxedBitmaps.from_full(bitmaps), keypoints=keypoints)
    return Sample(image, number, (SIDE, SIDE), targets=targets)


# Two passes make a step. The whole batch of each, and the shares of two processes, which differ in length.
WHOLE = [[0, 1, 2], [3, 4, 5]]
SHARES = ([[0, 1], [3]], [[2], [4, 5]])


def gradients(name: str, passes: list[list[int]]) -> dict[str, Tensor]:
    """Of one step of this process, averaged over the processes."""
    config, settings, _ = CASES[name]
    cfg = load_config(config, [*SMALL, *settings])
    torch.manual_seed(0)
    model: nn.Module = build_model(cfg).train()
    updater = Updater(build_optimizer(cfg, model), precision=build_precision(cfg, torch.device("cpu")))
    updater.compute_gradients(with_averaged_gradients(model), [[sample(n) for n in images] for images in passes])
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train_a_share(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save({name: gradients(name, SHARES[rank]) for name in CASES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("shares")
    mp.spawn(train_a_share, args=(str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one(name: str, shares: list[dict[str, dict[str, Tensor]]]) -> None:
    alone, tolerance = gradients(name, WHOLE), CASES[name][2]
    first, second = (share[name] for share in shares)
    assert alone.keys() == first.keys() == second.keys()
    largest = max(value.norm() for value in alone.values())
    for parameter, expected in alone.items():
        assert torch.equal(first[parameter], second[parameter])
        error = (first[parameter] - expected).norm()
        assert error <= tolerance * expected.norm() + 1e-3 * tolerance * largest, (parameter, error, expected.norm())
