"""What the parts of one run share: its folder, its checkpoints, its writers and its data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.training.writers import MetricWriter


@dataclass(frozen=True)
class Workspace:
    """Handed to the builder of every hook."""

    output_dir: Path
    checkpointer: Checkpointer
    writers: Sequence[MetricWriter]  # none on processes other than the first
    train_datasets: Sequence[Dataset]
    test_datasets: Sequence[Dataset]
