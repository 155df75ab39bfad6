"""ProposalNetwork: against what Detectron2 has recorded, and by itself."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.detectors import ProposalNetwork
from mrcnn_zoo.registries import DETECTORS
from mrcnn_zoo.structures import Proposals, Sample, Targets
from support.references import RecordedCase, detectron2_shapes, detectron2_values, find_case, shapes_of

SAME_LOGIT = 1e-5  # candidates with closer ones may stand in either order


@pytest.fixture(scope="module")
def case() -> RecordedCase:
    return find_case("rpn_R_50_FPN")


@pytest.fixture(scope="module")
def recorded(case: RecordedCase) -> dict[str, Tensor]:
    return {name: case.tensor(name) for name in case.arrays}


@pytest.fixture(scope="module")
def model(case: RecordedCase) -> ProposalNetwork:
    model = build_model(load_config(case.config))
    model.load_state_dict(case.weights)
    assert isinstance(model, ProposalNetwork)
    return model


@pytest.fixture(scope="module")
def samples(recorded: dict[str, Tensor]) -> list[Sample]:
    samples = []
    for number in range(2):
        image = recorded[f"image{number}"].permute(2, 0, 1)
        targets = Targets(
            (image.shape[1], image.shape[2]), recorded[f"gt{number}_boxes"], recorded[f"gt{number}_classes"]
        )
        height, width = recorded["out_size"][number].tolist()
        samples.append(Sample(image, number, (height, width), targets))
    return samples


def test_proposals_agree_in_pixels_of_the_original(
    model: ProposalNetwork, samples: list[Sample], recorded: dict[str, Tensor]
) -> None:
    tables = model.eval().propose(samples)
    assert len(tables) == len(samples) == 2
    for number, table in enumerate(tables):
        boxes, logits = recorded[f"out{number}_proposal_boxes"], recorded[f"out{number}_objectness_logits"]
        assert table.image_size == samples[number].original_size
        torch.testing.assert_close(table.objectness, logits, rtol=1e-4, atol=0)
        # Every recorded proposal is there, at its place or at that of one with the same logit.
        distances = (table.boxes[:, None] - boxes).abs().amax(dim=2)
        is_same_logit = (table.objectness[:, None] - logits).abs() <= SAME_LOGIT * logits.abs().max()
        nearest = distances.masked_fill(~is_same_logit, float("inf")).min(dim=0)
        assert nearest.values.max() <= 1e-4 * boxes.abs().max()
        assert len(nearest.indices.unique()) == len(table)


def test_losses_and_gradient_norms_agree(
    model: ProposalNetwork, samples: list[Sample], recorded: dict[str, Tensor], case: RecordedCase
) -> None:
    output = model.losses(samples)
    expected = {name: float(recorded[f"loss_{name}"]) for name in ("loss_rpn_cls", "loss_rpn_loc")}
    assert {name: loss.item() for name, loss in output.losses.items()} == pytest.approx(expected, rel=1e-4)
    output.total().backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert norms == pytest.approx(case.gradient_norms, rel=1e-3)


@pytest.mark.parametrize("name", ["rpn_R_50_C4_1x", "rpn_R_50_FPN_1x", "fast_rcnn_R_50_FPN_1x"])
def test_names_and_shapes_are_detectron2s(name: str) -> None:
    values = detectron2_values()[f"COCO-Detection/{name}"]
    changes = {key: value for key, value in values.items() if key.startswith("MODEL.") and key != "MODEL.WEIGHTS"}
    cfg = load_config(None, [part for item in changes.items() for part in item])
    with torch.device("meta"):
        model = DETECTORS.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    assert shapes_of(model) == detectron2_shapes()[f"COCO-Detection/{name}"]


@pytest.fixture
def small(small_cfg: Callable[..., CfgNode]) -> ProposalNetwork:
    torch.manual_seed(0)
    model = build_model(small_cfg("MODEL.META_ARCHITECTURE", "ProposalNetwork"))
    assert isinstance(model, ProposalNetwork)
    return model.eval()


def image(number: int = 0, boxes: list[list[float]] | None = None) -> Sample:
    pixels = torch.randint(0, 256, (3, 60, 70), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    rows = torch.tensor(boxes or []).reshape(-1, 4)
    targets = Targets((60, 70), rows, torch.zeros(len(rows), dtype=torch.int64))
    return Sample(pixels, number, (120, 140), targets if boxes is not None else None)


def test_predictions_are_the_proposals_as_detections_of_one_class(small: ProposalNetwork) -> None:
    (found,), (proposals,) = small.predict([image()]), small.propose([image()])
    assert len(found) > 0
    assert torch.equal(found.boxes, proposals.boxes)
    assert torch.equal(found.scores, proposals.objectness.sigmoid())
    assert not found.classes.any()
    assert found.image_size == (120, 140)
    assert found.boxes[:, 2].max() > 70


def test_proposals_stay_in_the_order_of_their_logits_where_scores_are_equal(
    small: ProposalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = torch.tensor([[0.0, 0, 5, 5], [1.0, 1, 9, 9]])
    table = Proposals((60, 70), boxes, objectness=torch.tensor([40.0, 30.0]))
    monkeypatch.setattr(small.proposal_generator, "predict", lambda *_: [table])
    (found,) = small.predict([image()])
    assert found.scores.tolist() == [1, 1]
    assert torch.equal(found.boxes, 2 * boxes)


def test_forward_gives_losses_in_training_and_proposals_otherwise(small: ProposalNetwork) -> None:
    assert set(small.train()([image(0, [[5.0, 5, 30, 30]])]).losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    assert len(small.eval()([image(), image(1)])) == 2


def test_an_image_without_objects_has_losses_and_one_without_targets_has_none(small: ProposalNetwork) -> None:
    assert small.losses([image(0, [])]).total().isfinite()
    with pytest.raises(ValueError, match="targets"):
        small.losses([image()])


@pytest.mark.parametrize(("name", "needs"), [("RPN", False), ("GroundTruthProposals", True)])
def test_only_ground_truth_proposals_need_targets_to_predict(
    name: str, needs: bool, small_cfg: Callable[..., CfgNode]
) -> None:
    for architecture in ("ProposalNetwork", "GeneralizedRCNN"):
        keys = ("MODEL.META_ARCHITECTURE", architecture, "MODEL.PROPOSAL_GENERATOR.NAME", name)
        assert build_model(small_cfg(*keys)).needs_targets is needs


@pytest.mark.parametrize("name", ["GroundTruthProposals", "SlidingWindow"])
def test_generators_without_losses_cannot_be_trained(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    keys = ("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.PROPOSAL_GENERATOR.NAME", name)
    with pytest.raises(UserError, match=f"{name} .* has no losses.*--eval-only"):
        build_model(small_cfg(*keys)).losses([image(0, [])])
