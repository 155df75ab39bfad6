import torch
from torch import Tensor

from mrcnn_zoo.modeling.assignment.matching import MaxIoUMatcher, RandomSampler, match_and_sample

# Rows 0 to 9 are positive, 10 to 39 negative, 40 to 49 ignored.
LABELS = torch.tensor([1] * 10 + [0] * 30 + [-1] * 10, dtype=torch.int8)


def test_positives_are_bounded_by_their_fraction_and_negatives_fill_the_rest() -> None:
    positives, negatives = RandomSampler(16, positive_fraction=0.25).sample(LABELS)
    assert len(positives) == 4
    assert len(negatives) == 12
    assert len(set(positives.tolist())) == 4
    assert set(positives.tolist()) <= set(range(10))
    assert set(negatives.tolist()) <= set(range(10, 40))


def test_negatives_replace_missing_positives() -> None:
    positives, negatives = RandomSampler(30, positive_fraction=0.5).sample(LABELS)
    assert positives.tolist() == list(range(10))
    assert len(negatives) == 20


def test_all_boxes_are_sampled_in_order_if_there_are_few() -> None:
    state = torch.random.get_rng_state()
    positives, negatives = RandomSampler(100, positive_fraction=0.5).sample(LABELS)
    assert positives.tolist() == list(range(10))
    assert negatives.tolist() == list(range(10, 40))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_positives_do_not_replace_missing_negatives() -> None:
    positives, negatives = RandomSampler(8, positive_fraction=0.5).sample(torch.ones(20, dtype=torch.int8))
    assert len(positives) == 4
    assert len(negatives) == 0


def test_the_same_seed_gives_the_same_sample() -> None:
    samples = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        samples.append(torch.cat(RandomSampler(8, positive_fraction=0.5).sample(LABELS)).tolist())
    assert samples[0] == samples[1] != samples[2]


def test_each_positive_can_be_sampled() -> None:
    torch.manual_seed(0)
    sampler = RandomSampler(2, positive_fraction=0.5)
    assert {int(sampler.sample(LABELS)[0]) for _ in range(200)} == set(range(10))


def test_sample_of_no_boxes_is_empty() -> None:
    positives, negatives = RandomSampler(8, positive_fraction=0.5).sample(torch.zeros(0, dtype=torch.int8))
    assert len(positives) == len(negatives) == 0


def test_sample_batch_equals_samples_of_single_images() -> None:
    sampler, images = RandomSampler(8, positive_fraction=0.5), [LABELS, LABELS.flip(0), LABELS[:3]]
    torch.manual_seed(5)
    one_by_one = [sampler.sample(labels) for labels in images]
    torch.manual_seed(5)
    at_once = sampler.sample_batch(images)
    for expected, found in zip(one_by_one, at_once, strict=True):
        assert [rows.tolist() for rows in found] == [rows.tolist() for rows in expected]


def test_match_and_sample_calls_a_sampler_without_batch_method_per_image() -> None:
    class First:
        def sample(self, labels: Tensor) -> tuple[Tensor, Tensor]:
            return (labels == 1).nonzero().flatten()[:1], (labels == 0).nonzero().flatten()[:1]

    matcher = MaxIoUMatcher((0.5,), (0, 1), allow_low_quality=False)
    boxes = torch.tensor([[0.0, 0, 10, 10], [20.0, 20, 30, 30], [40.0, 0, 50, 10]])
    found = match_and_sample(matcher, First(), [boxes, boxes.flip(0)], [boxes[:2], boxes[:1]])
    assert [matches.labels.tolist() for matches, _, _ in found] == [[1, 1, 0], [0, 0, 1]]
    assert [[rows.tolist() for rows in sample] for _, *sample in found] == [[[0], [2]], [[2], [0]]]
