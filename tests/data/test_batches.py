"""The sequence of training batches."""

from itertools import chain, islice

import pytest

from mrcnn_zoo.data.loading.samplers import (
    BatchStream,
    TrainingSampler,
    contiguous_share,
    orientation_groups,
    share_of_rank,
)


def _rows(stream: BatchStream, count: int, start: int = 0) -> list[list[int]]:
    return [[draw.row for draw in batch] for batch in islice(stream.batches(start), count)]


def _flat(lists: list[list]) -> list:
    return list(chain.from_iterable(lists))


def test_without_groups_batches_are_the_shuffle_cut_up() -> None:
    sampler = TrainingSampler(5, seed=0)
    expected = [*sampler.epoch(0).tolist(), *sampler.epoch(1).tolist()]
    assert _flat(_rows(BatchStream(sampler, batch_size=2), 5)) == expected


def test_batches_hold_one_group_and_lose_no_image() -> None:
    groups = [0, 1, 1, 0, 1, 0, 1, 1]
    stream = BatchStream(TrainingSampler(8, seed=2), batch_size=3, groups=groups)
    batches = _rows(stream, 16)
    assert all(len({groups[row] for row in batch}) == 1 for batch in batches)
    counts = [sum(batch.count(row) for batch in batches) for row in range(8)]
    assert sum(counts) == 48
    assert min(counts) >= 5  # six epochs, but for what waits


@pytest.mark.parametrize("groups", [None, [0, 1, 1, 0, 1]])
def test_started_later_the_batches_are_the_same(groups: list[int] | None) -> None:
    stream = BatchStream(TrainingSampler(5, seed=1), batch_size=2, groups=groups)
    whole = list(islice(stream.batches(), 12))
    assert list(islice(stream.batches(7), 5)) == whole[7:]


def test_positions_count_all_draws() -> None:
    batches = islice(BatchStream(TrainingSampler(5, seed=1), batch_size=2).batches(), 6)
    assert [draw.position for batch in batches for draw in batch] == list(range(12))


def test_wide_and_high_images_are_apart() -> None:
    assert orientation_groups([(40, 60), (60, 40), (50, 50)]) == [1, 0, 0]


def test_ranks_share_a_batch() -> None:
    batch = next(BatchStream(TrainingSampler(6, seed=0), batch_size=6).batches())
    shares = [share_of_rank(batch, rank, 3) for rank in range(3)]
    assert _flat(shares) == batch
    assert [len(share) for share in shares] == [2, 2, 2]


@pytest.mark.parametrize(("count", "world_size"), [(10, 3), (2, 4), (0, 2), (8, 1)])
def test_ranks_share_a_test_set_in_order(count: int, world_size: int) -> None:
    shares = [list(contiguous_share(count, rank, world_size)) for rank in range(world_size)]
    assert _flat(shares) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
