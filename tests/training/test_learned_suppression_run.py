"""A run of two stages: a detector, then the suppression of its detections."""

from collections.abc import Callable
from pathlib import Path

import torch

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.inference.trained import load_trained
from mrcnn_zoo.training import run
from support.scenes import smooth_sample

SMALL = (
    *("MODEL.GOSSIP_NET.NUM_BLOCKS", 1, "MODEL.GOSSIP_NET.DIM", 16, "MODEL.GOSSIP_NET.REDUCED_DIM", 8),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.GOSSIP_NET.MIN_SCORE", 0.0),
    *("MODEL.MASK_ON", False, "TEST.DETECTIONS_PER_IMAGE", 10, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
    *("DATASETS.SCENES.NUM_VAL", 2, "WRITERS", ["json"]),
)


def test_final_checkpoint_is_the_detector_with_a_trained_suppression(
    tiny_config: Callable[..., CfgNode], tmp_path: Path
) -> None:
    schedule = ("SOLVER.TRAINING_SCHEDULE", "learned_suppression", "SOLVER.MAX_ITER", 4, "SOLVER.EMA.ENABLED", True)
    results = run(tiny_config(*schedule, *SMALL))
    assert results["bbox"]["AP"] >= 0
    final = tmp_path / "output" / "model_final.pth"
    before = read_weights(tmp_path / "output" / "detector" / "model_final.pth").weights
    after = read_weights(final).weights
    added = after.keys() - before.keys()
    assert added
    assert all("suppression" in name.split(".") for name in added)
    # Batch-norm statistics, too. Their counters are not loaded, and nothing depends on them.
    compared = [name for name in before if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(after[name], before[name]) for name in compared)
    model, cfg, _ = load_trained(final)
    assert cfg.MODEL.ROI_HEADS.SUPPRESSION == "GossipNet"
    (found,) = model.predict([smooth_sample(64, 64)])  # type: ignore[operator]
    assert len(found) > 0
