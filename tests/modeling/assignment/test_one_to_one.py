"""One-to-one matching against scipy on the whole cost matrix, all permutations, and cases worked out by hand."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mrcnn_zoo.modeling.assignment import match_one_to_one


def pairs_of(cost: Tensor) -> list[tuple[int, int]]:
    ((objects, boxes),) = match_one_to_one([cost])
    return list(zip(objects.tolist(), boxes.tolist(), strict=True))


def total(cost: Tensor, pairs: list[tuple[int, int]]) -> float:
    return sum(float(cost[pair]) for pair in pairs)


def least_total_of_all_permutations(cost: Tensor) -> float:
    table = (cost if cost.shape[0] <= cost.shape[1] else cost.T).tolist()
    columns = itertools.permutations(range(len(table[0])), len(table))
    return min(sum(row[column] for row, column in zip(table, chosen, strict=True)) for chosen in columns)


def test_box_goes_to_the_object_for_which_others_are_more_expensive() -> None:
    # Box 0 is the cheapest of both objects. Together: 1 + 8 = 9 for the first pairs, 2 + 1.5 = 3.5 for the others.
    assert pairs_of(torch.tensor([[1.0, 2, 9], [1.5, 8, 9]])) == [(0, 1), (1, 0)]


def test_matching_of_several_images_is_that_of_each() -> None:
    costs = [torch.rand(3, 7), torch.zeros(0, 7), torch.rand(2, 7)]
    assert [[rows.tolist() for rows in image] for image in match_one_to_one(costs)] == [
        [[a for a, _ in pairs_of(cost)], [b for _, b in pairs_of(cost)]] if len(cost) else [[], []] for cost in costs
    ]
    assert match_one_to_one([]) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 3), (4, 6), (5, 5), (6, 4), (3, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_total_cost_is_the_least_of_all_permutations(shape: tuple[int, int], seed: int) -> None:
    # Few different values, some of them negative: many ties.
    cost = torch.randint(-3, 6, shape, generator=torch.Generator().manual_seed(seed)).float()
    pairs = pairs_of(cost)
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == min(shape)
    assert total(cost, pairs) == least_total_of_all_permutations(cost)


@pytest.mark.parametrize("shape", [(40, 3000), (30, 31), (25, 12)])
def test_matching_equals_scipy_on_the_whole_matrix(shape: tuple[int, int]) -> None:
    # Costs of an object differ little between boxes, so that objects compete for the same cheap boxes.
    generator = np.random.default_rng(0)
    cost = generator.random(shape[0])[:, None] + generator.random(shape[1]) + 0.1 * generator.random(shape)
    rows, columns = linear_sum_assignment(cost.astype(np.float32))
    assert pairs_of(torch.from_numpy(cost)) == list(zip(rows.tolist(), columns.tolist(), strict=True))


def test_costs_that_are_not_finite_are_avoided_and_raise_nothing() -> None:
    nan = float("nan")
    assert pairs_of(torch.tensor([[nan, 3, 1], [1, float("inf"), 0]])) == [(0, 2), (1, 0)]
    assert len(pairs_of(torch.full((2, 3), nan))) == 2
