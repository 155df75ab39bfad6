"""Times of the stages of a detector during an evaluation."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from mrcnn_zoo.evaluation.stage_times import LOADING, REST, STAGE_TIMES_FILE, StageTimer
from mrcnn_zoo.structures import Sample
from support.small_models import DIGITS, TINY_LAYERS, config_of, varied_model

SLEEP = 0.02


class Wrapper(nn.Module):
    """As the wrapper of test-time augmentation: `predict` of the model inside."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def predict(self, samples: list[Sample]) -> list:
        time.sleep(SLEEP)
        return self.detector.predict(samples)  # type: ignore[operator]


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    return varied_model(config_of(dict(item.split("=") for item in TINY_LAYERS), DIGITS))


def batches() -> Iterator[list[Sample]]:
    image = torch.randint(0, 255, (3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    for _ in range(2):
        time.sleep(SLEEP)
        yield [Sample(image, image_id=1, original_size=(64, 64))]


def test_stages_sum_to_the_calls_and_predictions_are_equal(detector: nn.Module, tmp_path: Path) -> None:
    expected = [detector.predict(samples) for samples in batches()]  # type: ignore[operator]
    total = 0.0
    wrapper = Wrapper(detector)
    with StageTimer(wrapper) as timer:
        found = []
        for samples in timer.loaded(batches()):
            start = time.perf_counter()
            found.append(wrapper.predict(samples))
            total += time.perf_counter() - start
    seconds = timer.seconds()
    assert list(seconds) == [LOADING, "backbone", "proposals", "box head", "mask_head", REST]
    assert all(value > 0 for value in seconds.values())
    assert seconds[LOADING] >= 2 * SLEEP
    assert seconds[REST] >= 2 * SLEEP  # of the wrapper
    assert sum(seconds.values()) - seconds[LOADING] <= total
    assert all(
        torch.equal(a.scores, b.scores) for x, y in zip(expected, found, strict=True) for a, b in zip(x, y, strict=True)
    )
    timer.save(tmp_path, num_images=2)
    stored = json.loads((tmp_path / STAGE_TIMES_FILE).read_text())
    assert stored["seconds_per_image"]["backbone"] == pytest.approx(seconds["backbone"] / 2)


def test_methods_are_restored_after_an_error(detector: nn.Module) -> None:
    with pytest.raises(AttributeError), StageTimer(detector):
        detector.predict(["no sample"])  # type: ignore[operator]
    owners = [
        detector,
        detector.backbone,
        detector.proposal_generator,
        detector.roi_heads,
        detector.roi_heads.mask_head,
    ]
    assert not any({"predict", "forward", "detect_boxes"} & vars(owner).keys() for owner in owners)
