"""How fast we are, and how much memory we need: against torchvision, measured in turns."""

from mrcnn_zoo.experiments.benchmark.data import benchmark_evaluation, benchmark_loading
from mrcnn_zoo.experiments.benchmark.models import ModelPlan, benchmark_models
from mrcnn_zoo.experiments.benchmark.report import BenchmarkReport

__all__ = ["BenchmarkReport", "ModelPlan", "benchmark_evaluation", "benchmark_loading", "benchmark_models"]
