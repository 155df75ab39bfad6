"""What a training forward returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class TrainingOutput:
    """Losses to add up and metrics to look at."""

    losses: dict[str, Tensor] = field(default_factory=dict)  # scalars, already weighted
    metrics: dict[str, Tensor] = field(default_factory=dict)  # scalars, detached, never moved off the device here

    def total(self) -> Tensor:
        """The scalar to call backward on."""
        return sum(self.losses.values())  # type: ignore[return-value]

    def __or__(self, other: "TrainingOutput") -> "TrainingOutput":
        """Both outputs as one; a name may stand on one side only."""
        twice = (self.losses.keys() & other.losses.keys()) | (self.metrics.keys() & other.metrics.keys())
        if twice:
            raise ValueError(f"two components return the same names: {', '.join(sorted(twice))}")
        return TrainingOutput(self.losses | other.losses, self.metrics | other.metrics)
