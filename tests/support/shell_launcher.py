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


def trained() -> list[str]:
    """The runs that SCRIPT has written to the file "trained" since the last call, in order."""
    path = Path("trained")
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return names
