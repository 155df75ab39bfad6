"""Stages of a run, and the schedules that list them, registered in TRAINING_SCHEDULES."""

from mrcnn_zoo.training.stages import schedules
from mrcnn_zoo.training.stages.stage import FinishedStage, Stage, build_stages

__all__ = ["FinishedStage", "Stage", "build_stages", "schedules"]
