"""Means of what the training steps return, without a synchronisation in between."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mrcnn_zoo.ops.processes import world_size

Totals = dict[str, tuple[float, int]]  # name -> (sum, count)


class MetricAccumulator:
    """Keeps the scalars of each step where they are; one copy to the host when the means are asked for."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take the scalars of one step; a step may lack some names."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value.detach())

    def pop_means(self) -> dict[str, float]:
        """Means since the last call, over the steps and processes that gave a value.

        With several processes every one must call this at the same iteration, as in any collective operation.
        """
        totals = self._pop_totals()
        if world_size() > 1:
            # As objects: processes may have seen different names, e.g. one without any foreground.
            of_processes: list[Totals] = [{}] * world_size()
            dist.all_gather_object(of_processes, totals)
            totals = _added_up(of_processes)
        return {name: total / count for name, (total, count) in totals.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The values since the last means, of this process: (n,) for each name, on the CPU."""
        return {name: torch.stack(values).to("cpu") for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self._values = {name: list(values.unbind()) for name, values in state.items()}

    def _pop_totals(self) -> Totals:
        if not self._values:
            return {}
        names, counts = list(self._values), [len(values) for values in self._values.values()]
        # Stacked by name first: names may come with different dtypes, and float16 sums would overflow.
        sums = torch.stack([_sum(values) for values in self._values.values()]).tolist()
        self._values = {}
        return {name: (total, count) for name, total, count in zip(names, sums, counts, strict=True)}


def joined(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The values of several `state_dict`s as those of one."""
    names = dict.fromkeys(name for state in states for name in state)
    return {name: torch.cat([state[name] for state in states if name in state]) for name in names}


def _sum(values: list[Tensor]) -> Tensor:
    device = values[-1].device  # those from a checkpoint lie on the CPU
    return torch.stack([value.to(device) for value in values]).float().sum()


def _added_up(of_processes: list[Totals]) -> Totals:
    added: Totals = {}
    for totals in of_processes:
        for name, (total, count) in totals.items():
            before, count_before = added.get(name, (0.0, 0))
            added[name] = (before + total, count_before + count)
    return added
