"""All checks, and the diagnosis: their findings in the order of severity."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mrcnn_zoo.doctor.anchors import check_anchors
from mrcnn_zoo.doctor.annotations import (
    check_boxes,
    check_duplicates,
    check_empty,
    check_loading,
    check_mask_boxes,
)
from mrcnn_zoo.doctor.classes import check_balance, check_categories, check_class_number
from mrcnn_zoo.doctor.examined import DoctorInput
from mrcnn_zoo.doctor.finding import Finding, Severity
from mrcnn_zoo.doctor.images import check_channels, check_files, check_flat_images, check_statistics
from mrcnn_zoo.doctor.masks import check_mask_ceiling
from mrcnn_zoo.doctor.resources import check_limits, check_resources, check_small_objects
from mrcnn_zoo.doctor.similar import check_similar_images
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.progress import ProgressLine, show_progress

RunCheck = Callable[[DoctorInput], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """A check of datasets and model.

    Args:
        name: in the JSON.
        run: from the input to its findings; none if all is fine.
        fine: printed where it finds nothing.
        needs_data: whether it is left out where no dataset could be loaded.
    """

    name: str
    run: RunCheck
    fine: str
    needs_data: bool = True


CHECKS = (
    Check("loading", check_loading, "the datasets load, and the training can be planned", needs_data=False),
    Check("files", check_files, "image files exist, can be decoded, and have the annotated size"),
    Check("class_number", check_class_number, "the model has the number of classes of the training data"),
    Check("categories", check_categories, "category ids have no gaps, and all classes have objects"),
    Check("balance", check_balance, "no class is rare"),
    Check("boxes", check_boxes, "no box has a side below a pixel"),
    Check("duplicates", check_duplicates, "no object is annotated twice"),
    Check("mask_boxes", check_mask_boxes, "masks fill their boxes"),
    Check("empty", check_empty, "every image has objects"),
    Check("flat_images", check_flat_images, "images have contrast"),
    Check("channels", check_channels, "images have one depth"),
    Check("statistics", check_statistics, "MODEL.PIXEL_MEAN and PIXEL_STD fit the pixels"),
    Check("similar_images", check_similar_images, "no image is in training and validation, or twice in a dataset"),
    Check("limits", check_limits, "no image has more objects than can be detected"),
    Check("small_objects", check_small_objects, "objects are larger than a cell of the finest level"),
    Check("anchors", check_anchors, "anchors overlap the objects"),
    Check("mask_ceiling", check_mask_ceiling, "the resolution of masks suffices"),
    Check("resources", check_resources, "memory and time"),
)


@dataclass(frozen=True)
class Diagnosis:
    """The findings of all checks.

    Args:
        findings: by severity, then in the order of the checks.
    """

    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one kind.

        Args:
            severity: of them.
        """
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def has_errors(self) -> bool:
        """Whether the training should not be started."""
        return bool(self.of(Severity.ERROR))


def run_checks(examined: DoctorInput, checks: Sequence[Check] = CHECKS) -> Diagnosis:
    """Run the checks; a UserError of one is an error finding.

    Args:
        examined: datasets and settings.
        checks: to run.
    """
    findings: list[Finding] = []
    line = ProgressLine("checking", total=len(checks))
    with show_progress(line) as display:
        for check in checks:
            line.show({"check": check.name})
            if display is not None:
                display.refresh(now=True)
            if examined.sides or not check.needs_data:
                findings += _results(check, examined)
            line.done += 1
    return Diagnosis(tuple(sorted(_without_repetitions(findings), key=lambda finding: finding.severity)))


def _results(check: Check, examined: DoctorInput) -> list[Finding]:
    try:
        found = list(check.run(examined))
    except UserError as error:
        found = [Finding(Severity.ERROR, str(error))]
    if not found:
        found = [Finding(Severity.FINE, check.fine)]
    return [replace(finding, check=check.name) for finding in found]


def _without_repetitions(findings: Sequence[Finding]) -> list[Finding]:
    """Findings without those of the plan of the training that a check reports with its examples."""
    kept = []
    for finding in findings:
        others = [other for other in findings if other.check != "loading"]
        is_repeated = finding.check == "loading" and any(_reports(other, finding.title) for other in others)
        if not is_repeated:
            kept.append(finding)
    return kept


def _reports(finding: Finding, message: str) -> bool:
    """Whether a message of the plan is contained in a finding: as its text and advice, or as one of its examples."""
    texts = [f"{finding.title}. {finding.advice}", finding.title]
    examples = [example.text for example in finding.examples if len(example.text) > 20]
    return message in texts or any(message.endswith(text) for text in examples)
