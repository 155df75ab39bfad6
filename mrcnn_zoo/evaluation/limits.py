"""Keys that limit the number and size of detected objects, and messages on objects and detections beyond them."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import CLASSIFIER
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.transforms.resize import shortest_edge_size
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.coco import KEYPOINT_MAXIMUM, PROPOSAL_NETWORK, STANDARD_MAXIMUM
from mrcnn_zoo.evaluation.proposals import LIMITS as PROPOSAL_LIMITS
from mrcnn_zoo.structures import Detections

RETINANET = "RetinaNet"  # MODEL.META_ARCHITECTURE
DETECTIONS = "TEST.DETECTIONS_PER_IMAGE"
CANDIDATES, UNCOUNTED = "candidates", "uncounted"  # topics of notes
LOW_SCORE = 0.2  # a limit that removes only detections below it is not reported
CONFIDENT_SCORE = 0.5  # a limit that removes detections above it is a warning
EXHAUSTED_SHARE = 0.5  # confident detections per candidate from which candidates are too few; NMS keeps about half
MARGIN = 1.2  # factor of a suggested limit over the number of objects
CANDIDATES_PER_OBJECT = 2  # of a suggested limit of candidates

Topic = tuple[str, str, int]  # dataset, topic of a note, level of logging

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """A key that limits the number of detected objects per image.

    Args:
        key: name of the key.
        value: of the key.
        levels: number of feature levels to which it applies separately.
        is_of_candidates: whether it limits candidates of detections, such as proposals, or detections.
    """

    key: str
    value: int
    levels: int = 1
    is_of_candidates: bool = True

    @property
    def capacity(self) -> int:
        """Maximum number of objects per image."""
        return self.value * self.levels

    def advice(self, objects: int) -> str:
        """`KEY VALUE` that allows a number of objects; empty if the limit allows them.

        Args:
            objects: per image.
        """
        wanted = suggested(objects) * (CANDIDATES_PER_OBJECT if self.is_of_candidates else 1)
        return f"{self.key} {wanted}" if wanted > self.value else ""


@dataclass(frozen=True)
class Note:
    """A message on a reached limit."""

    topic: str  # equal for equal limits
    level: int  # of logging
    text: str


def suggested(objects: int) -> int:
    """A limit for a number of objects, with a margin, rounded up to hundreds.

    Args:
        objects: per image.
    """
    return math.ceil(objects * MARGIN / 100) * 100


def _advice(limits: Sequence[Limit], objects: int) -> str:
    return " ".join(filter(None, (limit.advice(objects) for limit in limits)))


def build_limits(cfg: CfgNode, *, is_training: bool = False) -> tuple[Limit, ...]:
    """Limits on the objects per image.

    Args:
        cfg: of the model.
        is_training: whether the limits of proposals in training or all limits of inference are meant.
    """
    limits = list(_candidate_limits(cfg, "TRAIN" if is_training else "TEST"))
    kept = cfg.TEST.DETECTIONS_PER_IMAGE
    if not is_training and kept > 0 and cfg.MODEL.META_ARCHITECTURE not in (PROPOSAL_NETWORK, CLASSIFIER):
        limits.append(Limit(DETECTIONS, kept, is_of_candidates=False))
    return tuple(limits)


def _candidate_limits(cfg: CfgNode, split: str) -> Sequence[Limit]:
    model = cfg.MODEL
    if model.META_ARCHITECTURE == RETINANET:
        key = "MODEL.RETINANET.TOPK_CANDIDATES_TEST"
        levels = len(model.RETINANET.IN_FEATURES)
        return [Limit(key, cfg.value_of(key), levels)] if split == "TEST" else []
    if model.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        return [Limit(key := f"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_{split}", cfg.value_of(key))]
    if model.PROPOSAL_GENERATOR.NAME != "RPN" or model.META_ARCHITECTURE == CLASSIFIER:
        return []
    before, after = f"MODEL.RPN.PRE_NMS_TOPK_{split}", f"MODEL.RPN.POST_NMS_TOPK_{split}"
    levels = 1 if model.RPN.ACROSS_LEVELS else len(model.RPN.IN_FEATURES)
    return [Limit(before, cfg.value_of(before), levels), Limit(after, cfg.value_of(after))]


def cut_objects_message(dataset: Dataset, limits: Sequence[Limit]) -> str:
    """Message on images with more objects than limits allow; empty if there are none.

    Args:
        dataset: with annotations, of which crowds do not count.
        limits: see `build_limits`.
    """
    counts = [_num_objects(record) for record in dataset.records]
    most = max(counts, default=0)
    exceeded = [limit for limit in limits if limit.capacity < most]
    if not exceeded:
        return ""
    fullest = dataset.records[counts.index(most)]
    parts = []
    for limit in exceeded:
        excess = [count - limit.capacity for count in counts if count > limit.capacity]
        per_level = " per feature level" if limit.levels > 1 else ""
        parts.append(
            f"{limit.key} = {limit.value}{per_level} excludes {sum(excess):,} in {counted(len(excess), 'image')}"
        )
    advice = _advice(limits, most)
    return (
        f"{dataset.name}: {fullest.source.name} has {most} objects, more than can be detected in one image: "
        f"{'; '.join(parts)}. Set {advice}"
    )


def build_data_topics(cfg: CfgNode, dataset: Dataset) -> set[Topic]:
    """Topics of `log_notes` that the messages of `cut_objects_message` and `build_data_notes` include.

    Args:
        cfg: of the model and its evaluation.
        dataset: to be evaluated on.
    """
    most = max(map(_num_objects, dataset.records), default=0)
    exceeded = [limit for limit in build_limits(cfg) if limit.capacity < most]
    topics = {CANDIDATES if limit.is_of_candidates else limit.key for limit in exceeded}
    if (
        cfg.TEST.DETECTIONS_PER_IMAGE <= 0
        and max(map(_most_of_one_class, dataset.records), default=0) > STANDARD_MAXIMUM
    ):
        topics.add(UNCOUNTED)
    return {(dataset.name, topic, level) for topic in topics for level in (logging.INFO, logging.WARNING)}


def build_data_notes(cfg: CfgNode, dataset: Dataset) -> list[str]:
    """Messages on other objects of a test set that an evaluation excludes, with the key or rule.

    Args:
        cfg: of the model and its evaluation.
        dataset: to be evaluated on.
    """
    name, counts = dataset.name, [_num_objects(record) for record in dataset.records]
    most = max(counts, default=0)
    notes = []
    if cfg.MODEL.META_ARCHITECTURE == PROPOSAL_NETWORK:
        if most > PROPOSAL_LIMITS[-1]:
            notes.append(
                f"{name}: average recall counts {PROPOSAL_LIMITS[-1]} proposals per image; one has {most} objects"
            )
        return notes
    most_of_class = max(map(_most_of_one_class, dataset.records), default=0)
    if cfg.TEST.DETECTIONS_PER_IMAGE <= 0 and most_of_class > STANDARD_MAXIMUM:
        notes.append(
            f"{name}: {DETECTIONS} = {cfg.TEST.DETECTIONS_PER_IMAGE} keeps all detections, but the evaluation counts "
            f"the best {STANDARD_MAXIMUM} per image and class, and one image has {most_of_class} objects of a "
            f"class. Set {DETECTIONS} {suggested(most)}"
        )
    if cfg.MODEL.KEYPOINT_ON:
        poses = [sum(bool(item.keypoints) and not item.is_crowd for item in r.instances) for r in dataset.records]
        if max(poses, default=0) > KEYPOINT_MAXIMUM:
            notes.append(
                f"{name}: COCO's keypoint evaluation counts the best {KEYPOINT_MAXIMUM} detections per image; "
                f"{counted(sum(count > KEYPOINT_MAXIMUM for count in poses), 'image')} have more objects with keypoints"
            )
    for key in ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "MODEL.ROI_HEADS.MIN_SIZE_TEST"):
        small = _num_below(cfg, dataset, cfg.value_of(key))
        if small and cfg.MODEL.META_ARCHITECTURE != RETINANET:
            notes.append(
                f"{name}: {key} = {cfg.value_of(key):g} pixels of the network input excludes {small} of "
                f"{sum(counts)} objects, which have a shorter side. Set {key} 0"
            )
    return notes


def _num_below(cfg: CfgNode, dataset: Dataset, min_side: float) -> int:
    """Number of objects with a side of at most `min_side` pixels of the network input."""
    if min_side <= 0:
        return 0
    count = 0
    for record in dataset.records:
        height, width = shortest_edge_size(record.image_size, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        scale_y, scale_x = height / record.image_size[0], width / record.image_size[1]
        for item in record.instances:
            x1, y1, x2, y2 = item.box
            count += not item.is_crowd and min((x2 - x1) * scale_x, (y2 - y1) * scale_y) <= min_side
    return count


@dataclass
class DetectionTally:
    """Counts the images where a limit may have removed detections.

    Args:
        limits: see `build_limits`.
        min_score: detections below it are not used, e.g. not drawn.
        max_per_class: detections per image and class that an evaluation counts if `limits` has no limit of detections;
            0 for all.
    """

    limits: tuple[Limit, ...]
    min_score: float = 0.0
    max_per_class: int = 0
    num_images: int = 0
    lowest_kept: list[tuple[float, str]] = field(default_factory=list)  # score and image, if the limit was reached
    exhausted: list[tuple[int, str]] = field(default_factory=list)  # confident detections, image
    uncounted: list[tuple[int, str]] = field(default_factory=list)  # detections of one class, image
    most_found: int = 0  # maximum number of detections per image

    def add(self, image: str, found: Detections, *, measured: Detections | None = None) -> None:
        """Count the detections of one image.

        Args:
            image: name of the image.
            found: all detections of the model.
            measured: detections of evaluated classes; all by default.
        """
        self.num_images += 1
        count = len(found)
        classes = (found if measured is None else measured).classes
        most_of_class = int(classes.bincount().max()) if len(classes) else 0
        self.most_found = max(self.most_found, count)
        if count == 0:
            return
        kept = next((limit.value for limit in self.limits if not limit.is_of_candidates), 0)
        if kept and count >= kept:
            score = float(found.scores.min())
            if score >= max(self.min_score, LOW_SCORE):
                self.lowest_kept.append((score, image))
        elif not kept and 0 < self.max_per_class < most_of_class:
            self.uncounted.append((most_of_class, image))
        fewest = min((limit.value for limit in self.limits if limit.is_of_candidates), default=0)
        if fewest and count >= EXHAUSTED_SHARE * fewest:
            confident = int((found.scores >= CONFIDENT_SCORE).sum())
            if confident >= EXHAUSTED_SHARE * fewest:
                self.exhausted.append((confident, image))

    def merge(self, other: "DetectionTally") -> None:
        """Add the counts of another tally.

        Args:
            other: of other images.
        """
        self.num_images += other.num_images
        self.lowest_kept += other.lowest_kept
        self.exhausted += other.exhausted
        self.uncounted += other.uncounted
        self.most_found = max(self.most_found, other.most_found)

    def notes(self) -> list[Note]:
        """One note per reached limit."""
        notes = []
        if self.lowest_kept:
            notes.append(self._note_of_cut())
        if self.exhausted:
            notes.append(self._note_of_candidates())
        if self.uncounted:
            most, image = max(self.uncounted)
            text = (
                f"the evaluation counts the best {self.max_per_class} detections per image and class if {DETECTIONS} "
                f"is not positive; {counted(len(self.uncounted), 'image')} had more ({most} of a class in {image}). To "
                f"count all, set {DETECTIONS} {suggested(self.most_found)}"
            )
            notes.append(Note(UNCOUNTED, logging.WARNING, text))
        return notes

    def _note_of_cut(self) -> Note:
        limit = next(limit for limit in self.limits if not limit.is_of_candidates)
        score, image = max(self.lowest_kept)
        text = (
            f"{limit.key} = {limit.value} cut the detections of {len(self.lowest_kept)} of "
            f"{counted(self.num_images, 'image')}; the lowest score kept is {score:.3f} ({image})"
        )
        if score < CONFIDENT_SCORE:
            return Note(limit.key, logging.INFO, text)
        advice = _advice(self.limits, 2 * limit.value)
        return Note(limit.key, logging.WARNING, f"{text}, so objects may be missing. Set {advice}")

    def _note_of_candidates(self) -> Note:
        most, image = max(self.exhausted)
        narrow = [limit for limit in self.limits if limit.is_of_candidates and EXHAUSTED_SHARE * limit.value <= most]
        keys = " and ".join(f"{limit.key} = {limit.value}" for limit in narrow)
        advice = _advice(self.limits, 2 * most)
        text = (
            f"{counted(len(self.exhausted), 'image')} had nearly as many detections as candidates ({keys}; "
            f"{most} detections in {image}), so objects may be missing. Set {advice}"
        )
        return Note(CANDIDATES, logging.WARNING, text)


def build_detection_tally(cfg: CfgNode, *, min_score: float = 0.0) -> DetectionTally:
    """An empty tally for the detections of a model.

    Args:
        cfg: of the model.
        min_score: see `DetectionTally`.
    """
    return DetectionTally(build_limits(cfg), min_score=min_score)


def build_evaluation_tally(cfg: CfgNode) -> DetectionTally:
    """An empty tally for an evaluation, which may count fewer detections than the model keeps."""
    is_limited = cfg.EVAL.EVALUATOR == "coco" and cfg.MODEL.META_ARCHITECTURE != PROPOSAL_NETWORK
    return DetectionTally(build_limits(cfg), max_per_class=STANDARD_MAXIMUM if is_limited else 0)


def log_notes(notes: Sequence[Note], *, logged: set[Topic], dataset: str = "") -> None:
    """Log the notes of topics that were not logged before in the run.

    Args:
        notes: see `DetectionTally.notes`.
        logged: topics that were logged before; extended in place.
        dataset: name that precedes each message.
    """
    for note in notes:
        topic = (dataset, note.topic, note.level)
        if topic not in logged:
            logged.add(topic)
            logger.log(note.level, "%s%s", f"{dataset}: " if dataset else "", note.text)


def _num_objects(record: ImageRecord) -> int:
    return sum(not item.is_crowd for item in record.instances)


def _most_of_one_class(record: ImageRecord) -> int:
    return max(Counter(item.class_index for item in record.instances if not item.is_crowd).values(), default=0)
