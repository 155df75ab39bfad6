"""Where the runs of a sweep are trained: processes of this machine, jobs of a cluster."""

from mrcnn_zoo.experiments.launchers import local, slurm

__all__ = ["local", "slurm"]
