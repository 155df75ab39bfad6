"""`--launcher support.shell_launcher:build` runs a shell command in the place of each training."""

from pathlib import Path

from mrcnn_zoo.experiments.launchers.contract import LaunchOptions, TrainingProcess
from mrcnn_zoo.experiments.launchers.local import LocalLauncher

SCRIPT = "train.sh"  # beside the folder of the sweep; its arguments are those of Python, the folder of the run is $RUN


class ShellLauncher(LocalLauncher):
    """Runs `command` with `{folder}` replaced by the folder of the run."""

    command = "exit 0"

    def _process(self, folder: Path, slot: int) -> TrainingProcess:
        folder.mkdir(parents=True, exist_ok=True)
        command = self.command.format(folder=folder)
        return TrainingProcess(folder, environment=self._variables(slot), prefix=("/bin/sh", "-c", command))


def build(options: LaunchOptions) -> ShellLauncher:
    launcher = ShellLauncher(jobs=options.jobs or 1, cores=1)
    launcher.command = f"RUN={{folder}} exec /bin/sh {options.folder.parent / SCRIPT}"
    return launcher
