"""SOLVER.IMS_PER_BATCH auto: the search with simulated memory, the scaled lengths, and trial steps on the CPU."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training import batch_size, run
from mrcnn_zoo.training.batch_size import fit_batch, largest_batch, with_batch
from mrcnn_zoo.training.optimizer import build_batch_scale

TinyConfig = Callable[..., CfgNode]
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"  # 90,000 iterations of 16 images, rate 0.02


@pytest.mark.parametrize(("memory", "expected"), [(1, 1), (3, 3), (13, 13), (70, 64), (255, 240), (1000, 256)])
def test_largest_batch_is_found_to_an_eighth(memory: int, expected: int) -> None:
    tried: list[int] = []
    assert largest_batch(lambda count: tried.append(count) or count <= memory) == expected
    assert len(tried) == len(set(tried)) <= 13


def test_no_image_fits() -> None:
    with pytest.raises(UserError, match=r"not even one image fits.*INPUT.MIN_SIZE_TRAIN.*SOLVER.AMP.ENABLED True"):
        largest_batch(lambda _: False)


def test_rate_and_lengths_are_those_of_as_many_images() -> None:
    cfg = with_batch(load_config(MASK_RCNN, ["SOLVER.IMS_PER_BATCH", "auto", "TEST.EVAL_PERIOD", "5000"]), 40)
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.SCALE_LR_TO_BATCH, solver.MAX_ITER) == (40, 16, 36_000)
    assert (solver.STEPS, solver.WARMUP_ITERS, cfg.TEST.EVAL_PERIOD) == ([24_000, 32_000], 400, 2000)
    assert build_batch_scale(cfg) == 2.5
    cfg = load_config(MASK_RCNN, ["SOLVER.IMS_PER_BATCH", "auto", "SOLVER.SCALE_LR_TO_BATCH", 8])
    cfg = with_batch(changed(cfg, "SOLVER.ACCUMULATE_STEPS", 2), 4)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.SCALE_LR_TO_BATCH) == (90_000, 8)


def changed(cfg: CfgNode, name: str, value: Any) -> CfgNode:
    return batch_size.changed_config(cfg, {name: value})


def test_other_words_than_auto_are_refused() -> None:
    with pytest.raises(UserError, match=r"SOLVER.IMS_PER_BATCH = 'all' must be at least 1 or auto"):
        load_config(MASK_RCNN, ["SOLVER.IMS_PER_BATCH", "all"])


def test_auto_on_the_cpu_says_what_to_set(tiny_config: TinyConfig) -> None:
    with pytest.raises(UserError, match=r"auto tries batches on a GPU.*SOLVER.IMS_PER_BATCH 2"):
        run(tiny_config("SOLVER.IMS_PER_BATCH", "auto"))


def test_trial_steps_decide_and_a_resumed_run_keeps_the_number(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_config("SOLVER.IMS_PER_BATCH", "auto", "SOLVER.SCALE_LR_TO_BATCH", 2)
    monkeypatch.setattr(batch_size, "resolve_device", lambda _: torch.device("cuda"))
    tried = []

    def fits(_: CfgNode, samples: list[Any]) -> bool:
        tried.append(len(samples))
        assert samples[0].targets is not None
        return len(samples) <= 5

    monkeypatch.setattr(batch_size, "_step_fits", fits)
    datasets = [load_dataset(cfg, cfg.DATASETS.TRAIN[0])]
    found = fit_batch(cfg, datasets)
    assert tried == [1, 2, 4, 8, 6, 5]
    assert found.SOLVER.IMS_PER_BATCH == 5
    assert max(1, round(cfg.SOLVER.MAX_ITER * 2 / 5)) == found.SOLVER.MAX_ITER
    tried.clear()
    assert fit_batch(cfg, datasets, former=found.dump()).dump() == found.dump()
    assert tried == []


def test_trial_steps_compare_their_peak_with_the_free_memory(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_config("SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0)
    sample = batch_size._largest_sample(cfg, [load_dataset(cfg, cfg.DATASETS.TRAIN[0])])
    memory = SimpleNamespace(peak=1000)
    simulated = {
        "empty_cache": lambda: None,
        "mem_get_info": lambda _: (1000, 2000),
        "reset_peak_memory_stats": lambda _: None,
        "memory_reserved": lambda _: 100,
        "max_memory_reserved": lambda _: memory.peak,
    }
    for name, function in simulated.items():
        monkeypatch.setattr(torch.cuda, name, function)
    assert batch_size._step_fits(cfg, [sample, sample])
    memory.peak = 1001  # 901 more than before
    assert not batch_size._step_fits(cfg, [sample])

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError

    memory.peak = 0
    monkeypatch.setattr(batch_size.Updater, "compute_gradients", run_out)
    assert not batch_size._step_fits(cfg, [sample])
