"""Limits on the number and size of objects: what they cut off of the data and of the detections, with their keys."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.transforms.resize import shortest_edge_size
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.coco import KEYPOINT_MAXIMUM, PROPOSAL_NETWORK, STANDARD_MAXIMUM
from mrcnn_zoo.evaluation.proposals import LIMITS as PROPOSAL_LIMITS
from mrcnn_zoo.structures import Detections

RETINANET = "RetinaNet"  # MODEL.META_ARCHITECTURE
DETECTIONS = "TEST.DETECTIONS_PER_IMAGE"
CANDIDATES, UNCOUNTED = "candidates", "uncounted"  # topics of notes
LOW_SCORE = 0.2  # what a limit cuts below it is no loss: the score threshold of most models is 0.05
SURE_SCORE = 0.5  # a limit that cuts above it loses objects
FULL_SHARE = 0.5  # sure detections per candidate at which candidates run out: NMS leaves about one of two
ROOM = 1.2  # of a suggested limit over the number of objects
CANDIDATES_PER_OBJECT = 2  # of a suggested limit on proposals

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """A key that bounds how many objects of an image can be found.

    Args:
        key: its name.
        value: of the key.
        levels: feature levels that it counts separately.
        is_of_candidates: it bounds what the detections are chosen from, rather than the detections themselves.
    """

    key: str
    value: int
    levels: int = 1
    is_of_candidates: bool = True

    @property
    def capacity(self) -> int:
        """Objects of an image that it lets through at most."""
        return self.value * self.levels

    def advice(self, objects: int) -> str:
        """`KEY VALUE` with room for so many objects per image; empty where there is room already."""
        wanted = suggested(objects) * (CANDIDATES_PER_OBJECT if self.is_of_candidates else 1)
        return f"{self.key} {wanted}" if wanted > self.value else ""


@dataclass(frozen=True)
class Note:
    """A sentence about a limit that was reached, for the log."""

    topic: str  # the same for the same limit
    level: int  # of logging
    text: str


def suggested(objects: int) -> int:
    """A round limit with room for more than so many objects."""
    return math.ceil(objects * ROOM / 100) * 100


def _advice(limits: Sequence[Limit], objects: int) -> str:
    return " ".join(filter(None, (limit.advice(objects) for limit in limits)))


def build_limits(cfg: CfgNode, *, is_training: bool = False) -> tuple[Limit, ...]:
    """The limits that an object of an image meets, at inference or in the region proposals of training."""
    limits = list(_candidate_limits(cfg, "TRAIN" if is_training else "TEST"))
    kept = cfg.TEST.DETECTIONS_PER_IMAGE
    if not is_training and kept > 0 and cfg.MODEL.META_ARCHITECTURE != PROPOSAL_NETWORK:
        limits.append(Limit(DETECTIONS, kept, is_of_candidates=False))
    return tuple(limits)


def _candidate_limits(cfg: CfgNode, split: str) -> Sequence[Limit]:
    model = cfg.MODEL
    if model.META_ARCHITECTURE == RETINANET:
        key = "MODEL.RETINANET.TOPK_CANDIDATES_TEST"
        levels = len(model.RETINANET.IN_FEATURES)
        return [Limit(key, cfg.value_of(key), levels)] if split == "TEST" else []
    if model.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        key = f"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_{split}"
        return [Limit(key, cfg.value_of(key))]
    if model.PROPOSAL_GENERATOR.NAME != "RPN":
        return []
    before, after = f"MODEL.RPN.PRE_NMS_TOPK_{split}", f"MODEL.RPN.POST_NMS_TOPK_{split}"
    levels = 1 if model.RPN.ACROSS_LEVELS else len(model.RPN.IN_FEATURES)
    return [Limit(before, cfg.value_of(before), levels), Limit(after, cfg.value_of(after))]


def cut_objects_message(dataset: Dataset, limits: Sequence[Limit]) -> str:
    """What limits cut off where images have more objects than they let through; empty where none does.

    Args:
        dataset: its crowds do not count.
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
        each = " for each feature level" if limit.levels > 1 else ""
        parts.append(f"{limit.key} = {limit.value}{each} leaves out {sum(excess):,} in {counted(len(excess), 'image')}")
    advice = _advice(limits, most)
    return (
        f"{dataset.name}: {fullest.source.name} has {most} objects, more than can be found in one image: "
        f"{'; '.join(parts)}. Type {advice}"
    )


def build_data_topics(cfg: CfgNode, dataset: Dataset) -> set[tuple[str, str, int]]:
    """Topics of `log_notes` that `cut_objects_message` and `build_data_notes` speak of: the same keys and advice."""
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
    """What else of a test set an evaluation leaves out, and which key or rule does so; a sentence each."""
    name, counts = dataset.name, [_num_objects(record) for record in dataset.records]
    most = max(counts, default=0)
    notes = []
    if cfg.MODEL.META_ARCHITECTURE == PROPOSAL_NETWORK:
        if most > PROPOSAL_LIMITS[-1]:
            notes.append(f"{name}: the average recall counts {PROPOSAL_LIMITS[-1]} proposals per image; one has {most}")
        return notes
    most_of_class = max(map(_most_of_one_class, dataset.records), default=0)
    if cfg.TEST.DETECTIONS_PER_IMAGE <= 0 and most_of_class > STANDARD_MAXIMUM:
        notes.append(
            f"{name}: {DETECTIONS} = {cfg.TEST.DETECTIONS_PER_IMAGE} keeps all detections, but the evaluation counts "
            f"the best {STANDARD_MAXIMUM} of each image and class, and one image has {most_of_class} objects of a "
            f"class. Type {DETECTIONS} {suggested(most)}"
        )
    if cfg.MODEL.KEYPOINT_ON:
        poses = [sum(bool(item.keypoints) and not item.is_crowd for item in r.instances) for r in dataset.records]
        if max(poses, default=0) > KEYPOINT_MAXIMUM:
            notes.append(
                f"{name}: COCO's keypoint evaluation counts the best {KEYPOINT_MAXIMUM} detections of each image; "
                f"{counted(sum(count > KEYPOINT_MAXIMUM for count in poses), 'image')} have more objects with keypoints"
            )
    for key in ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "MODEL.ROI_HEADS.MIN_SIZE_TEST"):
        small = _num_below(cfg, dataset, cfg.value_of(key))
        if small and cfg.MODEL.META_ARCHITECTURE != RETINANET:
            notes.append(
                f"{name}: {key} = {cfg.value_of(key):g} pixels of the network input leaves out {small} of "
                f"{sum(counts)} objects, which have a shorter side. Type {key} 0"
            )
    return notes


def _num_below(cfg: CfgNode, dataset: Dataset, least_side: float) -> int:
    """Objects with a side of at most so many pixels of the network input."""
    if least_side <= 0:
        return 0
    count = 0
    for record in dataset.records:
        height, width = shortest_edge_size(record.image_size, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        scale_y, scale_x = height / record.image_size[0], width / record.image_size[1]
        for item in record.instances:
            x1, y1, x2, y2 = item.box
            count += not item.is_crowd and min((x2 - x1) * scale_x, (y2 - y1) * scale_y) <= least_side
    return count


@dataclass
class DetectionTally:
    """Counts the images in which detections may have been cut off by a limit. Sums of several tallies are tallies.

    Args:
        limits: see `build_limits`.
        least_score: detections below it are of no interest, as where a picture leaves them out.
        counted: detections per image and class that an evaluation counts where `limits` bound none; 0 for all.
    """

    limits: tuple[Limit, ...]
    least_score: float = 0.0
    counted: int = 0
    num_images: int = 0
    lowest_kept: list[tuple[float, str]] = field(default_factory=list)  # score and image, where the limit was reached
    exhausted: list[tuple[int, str]] = field(default_factory=list)  # sure detections, where candidates run out
    uncounted: list[tuple[int, str]] = field(default_factory=list)  # of one class, where not all are counted
    most_found: int = 0  # detections of all classes in an image

    def add(self, image: str, found: Detections, *, measured: Detections | None = None) -> None:
        """Take in what a model has found in one image.

        Args:
            image: its name.
            found: all of it, before any threshold or choice of the caller.
            measured: those that an evaluation gets; all by default.
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
            if score >= max(self.least_score, LOW_SCORE):
                self.lowest_kept.append((score, image))
        elif not kept and 0 < self.counted < most_of_class:
            self.uncounted.append((most_of_class, image))
        fewest = min((limit.value for limit in self.limits if limit.is_of_candidates), default=0)
        if fewest and count >= FULL_SHARE * fewest:
            sure = int((found.scores >= SURE_SCORE).sum())
            if sure >= FULL_SHARE * fewest:
                self.exhausted.append((sure, image))

    def take(self, other: "DetectionTally") -> None:
        """Add the counts of another tally, of other images."""
        self.num_images += other.num_images
        self.lowest_kept += other.lowest_kept
        self.exhausted += other.exhausted
        self.uncounted += other.uncounted
        self.most_found = max(self.most_found, other.most_found)

    def notes(self) -> list[Note]:
        """One for each limit that was reached."""
        notes = []
        if self.lowest_kept:
            notes.append(self._note_of_cut())
        if self.exhausted:
            notes.append(self._note_of_candidates())
        if self.uncounted:
            most, image = max(self.uncounted)
            text = (
                f"the evaluation counts the best {self.counted} detections of each image and class where {DETECTIONS} "
                f"is not above 0; {counted(len(self.uncounted), 'image')} had more ({most} of a class in {image}). To "
                f"count all, type {DETECTIONS} {suggested(self.most_found)}"
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
        if score < SURE_SCORE:
            return Note(limit.key, logging.INFO, text)
        advice = _advice(self.limits, 2 * limit.value)
        return Note(limit.key, logging.WARNING, f"{text}, so objects may be missing. Type {advice}")

    def _note_of_candidates(self) -> Note:
        most, image = max(self.exhausted)
        narrow = [limit for limit in self.limits if limit.is_of_candidates and FULL_SHARE * limit.value <= most]
        keys = " and ".join(f"{limit.key} = {limit.value}" for limit in narrow)
        advice = _advice(self.limits, 2 * most)
        text = (
            f"{counted(len(self.exhausted), 'image')} had nearly as many detections as candidates for them ({keys}; "
            f"{most} detections in {image}), so objects may be missing. Type {advice}"
        )
        return Note(CANDIDATES, logging.WARNING, text)


def build_detection_tally(cfg: CfgNode, *, least_score: float = 0.0) -> DetectionTally:
    """A fresh tally of what a model of this config detects.

    Args:
        cfg: of the model.
        least_score: see `DetectionTally`.
    """
    return DetectionTally(build_limits(cfg), least_score=least_score)


def build_evaluation_tally(cfg: CfgNode) -> DetectionTally:
    """The same for an evaluation, which may count fewer detections than the model keeps."""
    is_limited = cfg.EVAL.EVALUATOR == "coco" and cfg.MODEL.META_ARCHITECTURE != PROPOSAL_NETWORK
    return DetectionTally(build_limits(cfg), counted=STANDARD_MAXIMUM if is_limited else 0)


def log_notes(notes: Sequence[Note], *, said: set[tuple[str, str, int]], dataset: str = "") -> None:
    """Log notes; of one limit and dataset only the first of each level.

    Args:
        notes: see `DetectionTally.notes`.
        said: what was logged before in this run; extended.
        dataset: put before each sentence.
    """
    for note in notes:
        topic = (dataset, note.topic, note.level)
        if topic not in said:
            said.add(topic)
            logger.log(note.level, "%s%s", f"{dataset}: " if dataset else "", note.text)


def _num_objects(record: ImageRecord) -> int:
    return sum(not item.is_crowd for item in record.instances)


def _most_of_one_class(record: ImageRecord) -> int:
    return max(Counter(item.class_index for item in record.instances if not item.is_crowd).values(), default=0)
