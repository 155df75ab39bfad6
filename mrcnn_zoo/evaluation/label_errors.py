"""Suspected label errors: objects and confident detections that disagree, ranked by how unusual that is.

Six kinds: missing (a detection on no object), extra (an object without a detection), wrong class, loose (object and
detection overlap partly), merged (one object over several detections) and split (several objects under one detection).

The strength of a disagreement, in [0, 1], is the product of how far both differ and of how often the model is right
in such cases in this dataset. It is compared between the kinds by the ratio

    E / M = ERROR_RATE x number of agreeing cases in which the model is (nearly) as reliable
            / number of disagreements of the kind that are as strong

E is the expected number of label errors of this strength if a share ERROR_RATE of the labels has this error, M is the
number of observed ones, label errors and errors of the model together. The score is E / (E + M): rare disagreements in
cases in which the model is nearly always right have a high score.

Related: Northcutt et al. 2021 (Confident Learning); Tkachenko et al. 2023 (ObjectLab), which has three of the kinds and
no comparison with the errors of the model.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrcnn_zoo.evaluation.label_evidence import MIN_PAIR_IOU, Evidence, Floats, collect_evidence
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.operating_points import MATCH_IOU
from mrcnn_zoo.evaluation.result_rows import Row

MISSING, EXTRA, WRONG_CLASS, LOOSE, MERGED, SPLIT = KINDS = (
    *("missing", "extra", "wrong class", "loose", "merged", "split"),
)
ERROR_RATE = 0.01  # assumed share of labels with an error of each kind
NEARLY = 0.9  # of a strength, from which a case is as reliable: no agreeing case may reach the strongest suspect
RELIABLE = 0.5  # below, the score is reduced: the only disagreement of an unreliable model would have a high one
MIN_STRENGTH = 0.1  # of a suspect in the list
TRUSTED = 0.3  # share of right detections at its score from which one is compared with an object
INSIDE = 0.7  # share of a part's area inside the whole
FULL_GAIN = 0.3  # IoU that several parts gain over the best single one, from which the strength is not reduced
MAX_SINGLE_IOU = 0.8  # of the best single part


@dataclass(frozen=True)
class Suspect:
    """A suspected label error."""

    kind: str  # of `KINDS`
    score: float  # in [0, 1], comparable between kinds
    strength: float  # in [0, 1], comparable within a kind
    reliability: float  # in [0, 1]: how often the model is right in such cases
    image: dict[str, Any]  # of the COCO dataset: id, file_name, height, width
    class_name: str  # of the object, or of the detection on no object
    annotations: tuple[Row, ...]  # of the ground truth; () where one is missing
    detections: tuple[Row, ...]  # () where none supports the object
    text: str  # one sentence

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width and height around its objects, or of the detection on no object."""
        boxes = np.array([item["bbox"] for item in self.annotations or self.detections], dtype=np.float64)
        low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        x, y, width, height = np.concatenate([low, high - low]).tolist()
        return x, y, width, height

    @property
    def annotation_ids(self) -> tuple[int, ...]:
        """Ids of its objects in the annotation file."""
        return tuple(item["annotation_id"] if "annotation_id" in item else item["id"] for item in self.annotations)


def find_label_errors(evaluated: Evaluated, *, task: str | None = None) -> list[Suspect]:
    """Suspected label errors in descending order of score; an object or a detection is in one suspect.

    Crowds are not examined. Where an image is annotated for some classes alone (LVIS), no object of others is missing.

    Args:
        evaluated: ground truth and detections, down to low scores.
        task: "bbox" or "segm", whose overlaps are compared; by default masks where they are evaluated.
    """
    images = collect_evidence(evaluated, task or evaluated.mask_task)
    confusions = Counter(pair for evidence in images for pair in _class_pairs(evidence))
    names = dict(zip(evaluated.category_ids, evaluated.class_names, strict=True))
    suspects = [suspect for evidence in images for suspect in _Search(evidence, confusions, names).suspects()]
    reliable = [_agreeing(evidence) for evidence in images]
    ranked = []
    for kind in KINDS:
        parts = [values[kind] for values in reliable]
        ranked += _scored([item for item in suspects if item.kind == kind], np.concatenate([np.zeros(0), *parts]))
    return sorted(ranked, key=lambda suspect: (-suspect.score, -suspect.strength))


def _scored(suspects: Sequence[Suspect], reliabilities: Floats) -> list[Suspect]:
    """The suspects of one kind with their scores, without weak ones."""
    ordered, reliabilities = sorted(suspects, key=lambda suspect: suspect.strength), np.sort(reliabilities)
    scored, ratio = [], 0.0
    for place, suspect in enumerate(ordered):
        as_reliable = len(reliabilities) - np.searchsorted(reliabilities, NEARLY * suspect.strength)
        expected = ERROR_RATE * as_reliable
        ratio = max(ratio, float(expected) / (len(ordered) - place))  # a stronger one has no lower score
        if suspect.strength >= MIN_STRENGTH:
            trust = min(1.0, suspect.reliability / RELIABLE)
            scored.append(replace(suspect, score=trust * ratio / (1 + ratio)))
    return scored


def _class_pairs(evidence: Evidence) -> Iterator[tuple[int, int]]:
    """(class of the object, class of its detection) of each pair at IoU 0.5."""
    pairs = evidence.pairs
    for place in np.flatnonzero(pairs.pair_ious >= MATCH_IOU):
        yield int(pairs.object_classes[place]), int(pairs.row_classes[pairs.row_of[place]])


def _agreeing(evidence: Evidence) -> dict[str, Floats]:
    """By kind: the reliability of the model on each object whose detection has its class and IoU 0.5."""
    pairs = evidence.pairs
    places = np.flatnonzero(pairs.pair_ious >= MATCH_IOU)
    places = places[pairs.object_classes[places] == pairs.row_classes[pairs.row_of[places]]]
    rows, agreement = pairs.row_of[places], evidence.agreement()
    right = evidence.right_share[rows] * agreement
    others = pairs.shared[rows] / pairs.row_areas[rows][:, None]
    others[np.arange(len(places)), places] = 0.0
    return dict.fromkeys((LOOSE, MERGED, SPLIT), right) | {
        MISSING: right * (1 - np.minimum(others.sum(axis=1), 1.0)),
        EXTRA: evidence.found_share[places] * agreement,
        WRONG_CLASS: right * pairs.scores[rows],
    }


class _Search:
    """The suspects of one image, before they have scores."""

    def __init__(self, evidence: Evidence, confusions: Counter[tuple[int, int]], names: dict[int, str]) -> None:
        self._evidence, self._pairs = evidence, evidence.pairs
        self._confusions, self._names = confusions, names
        self._free_objects = np.ones(len(self._pairs.objects), dtype=bool)
        self._free_rows = self._pairs.is_leading.copy()

    def suspects(self) -> Iterator[Suspect]:
        """Suspects of several objects or detections first, so that their parts are not suspects of other kinds."""
        yield from self._merged()
        yield from self._split()
        for place in np.flatnonzero(self._free_objects).tolist():
            yield from self._of_object(place)
        yield from self._missing()

    def _suspect(
        self,
        kind: str,
        reliability: float,
        difference: float,
        text: str,
        objects: Sequence[int] = (),
        rows: Sequence[int] = (),
    ) -> Suspect:
        pairs = self._pairs
        self._free_objects[list(objects)] = False
        self._free_rows[list(rows)] = False
        class_id = int(pairs.object_classes[objects[0]] if objects else pairs.row_classes[rows[0]])
        return Suspect(
            kind=kind,
            score=0.0,
            strength=float(reliability * difference),
            reliability=float(reliability),
            image=pairs.image,
            class_name=self._names[class_id],
            annotations=tuple(pairs.objects[place] for place in objects),
            detections=tuple(pairs.rows[row] for row in rows),
            text=text,
        )

    def _merged(self) -> Iterator[Suspect]:
        pairs, right = self._pairs, self._evidence.right_share
        is_trusted = self._free_rows & (right >= TRUSTED)
        for place, area in enumerate(pairs.object_areas.tolist()):
            belongs = pairs.is_right & (pairs.object_of != place)  # to another object
            rows = np.flatnonzero(is_trusted & self._free_rows & ~belongs)
            parts, gain, best = _parts_of(
                area, pairs.row_areas[rows], pairs.ious[rows, place], pairs.row_ious[np.ix_(rows, rows)]
            )
            if len(parts) < 2:
                continue
            chosen = rows[parts].tolist()
            second = float(np.sort(right[chosen])[-2])
            reliability = second * self._evidence.agreement(len(parts) + 1)
            scores = ", ".join(f"{pairs.scores[row]:.2f}" for row in chosen)
            text = (
                f"{len(parts)} detections (scores {scores}) lie on one object {self._name_of(place)}: together they "
                f"have IoU {best + gain:.2f} with it, the best one alone {best:.2f}"
            )
            difference = min(1.0, gain / FULL_GAIN)
            if reliability * difference >= MIN_STRENGTH:
                yield self._suspect(MERGED, reliability, difference, text, [place], chosen)

    def _split(self) -> Iterator[Suspect]:
        pairs, right = self._pairs, self._evidence.right_share
        for row in np.flatnonzero(self._free_rows & (right >= TRUSTED)).tolist():
            belongs = (pairs.pair_ious >= MATCH_IOU) & (pairs.row_of != row)  # to another detection
            places = np.flatnonzero(self._free_objects & ~belongs)
            parts, gain, best = _parts_of(
                float(pairs.row_areas[row]),
                pairs.object_areas[places],
                pairs.ious[row, places],
                pairs.object_ious[np.ix_(places, places)],
            )
            if len(parts) < 2:
                continue
            reliability = right[row] * self._evidence.agreement(len(parts) + 1)
            name = self._names[int(pairs.row_classes[row])]
            text = (
                f"one detection of {name!r} (score {pairs.scores[row]:.2f}) lies on {len(parts)} objects: together "
                f"they have IoU {best + gain:.2f} with it, the best one alone {best:.2f}"
            )
            difference = min(1.0, gain / FULL_GAIN)
            if reliability * difference >= MIN_STRENGTH:
                yield self._suspect(SPLIT, reliability, difference, text, places[parts].tolist(), [row])

    def _of_object(self, place: int) -> Iterator[Suspect]:
        pairs = self._pairs
        row, iou = int(pairs.row_of[place]), float(pairs.pair_ious[place])
        is_compared = row >= 0 and iou >= MIN_PAIR_IOU and self._evidence.right_share[row] >= TRUSTED
        if row >= 0 and iou >= MATCH_IOU and pairs.row_classes[row] != pairs.object_classes[place]:
            yield self._wrong_class(place, row)
        elif not is_compared:
            yield self._extra(place)
        elif iou < self._evidence.usual_iou[place]:
            yield self._loose(place, row, iou)

    def _wrong_class(self, place: int, row: int) -> Suspect:
        pairs, evidence = self._pairs, self._evidence
        true, found = int(pairs.object_classes[place]), int(pairs.row_classes[row])
        is_label = (pairs.ious[:, place] >= MATCH_IOU) & (pairs.row_classes == true)
        own, score = float(pairs.scores[is_label].max(initial=0.0)), float(pairs.scores[row])
        total = sum(count for (label, _), count in self._confusions.items() if label == true)
        confused = (self._confusions[true, found] - 1) / (total + 10)  # others of the class with this detected class
        reliability = evidence.right_share[row] * (1 - confused) * evidence.agreement(2)
        text = (
            f"labelled {self._names[true]!r}, detected as {self._names[found]!r} with score {score:.2f} "
            f"(the label's class: {own:.2f}), IoU {pairs.ious[row, place]:.2f}"
        )
        return self._suspect(WRONG_CLASS, reliability, score - own, text, [place], [row])

    def _extra(self, place: int) -> Suspect:
        pairs, evidence = self._pairs, self._evidence
        support = float((evidence.right_share * pairs.ious[:, place]).max(initial=0.0))
        ious = np.delete(pairs.object_ious[place], place)
        double = float(ious.max(initial=0.0))
        found = float(evidence.found_share[place])
        difference = max(1 - min(1.0, support / MATCH_IOU), double if double >= MATCH_IOU else 0.0)
        text = f"no detection supports this {self._name_of(place)}; {found:.0%} of objects like it are found"
        if double >= MATCH_IOU:
            text = f"this {self._name_of(place)} has IoU {double:.2f} with another object and no detection of its own"
        return self._suspect(EXTRA, found * evidence.agreement(1), difference, text, [place])

    def _loose(self, place: int, row: int, iou: float) -> Suspect:
        pairs, evidence = self._pairs, self._evidence
        usual = float(evidence.usual_iou[place])
        # Pixels on other objects are left out: a detection of two objects is an error of the model.
        on_others = float(np.delete(pairs.shared[row], place).sum())
        own = float(pairs.shared[row, place])
        union = own / iou
        adjusted = min(1.0, own / max(union - on_others, own))
        reliability = evidence.right_share[row] * evidence.agreement(2 if iou < MATCH_IOU else 0)
        text = (
            f"{self._name_of(place)} and its detection (score {pairs.scores[row]:.2f}) have IoU {iou:.2f}; found "
            f"objects of this size usually have {usual:.2f}"
        )
        return self._suspect(LOOSE, reliability, max(0.0, 1 - adjusted / usual), text, [place], [row])

    def _missing(self) -> Iterator[Suspect]:
        pairs, evidence = self._pairs, self._evidence
        for row in np.flatnonzero(self._free_rows & (pairs.object_of < 0)).tolist():
            if not _is_annotated(pairs.image, int(pairs.row_classes[row]), set(pairs.object_classes.tolist())):
                continue
            right, covered = (
                float(evidence.right_share[row]),
                min(1.0, float(pairs.shared[row].sum() / pairs.row_areas[row])),
            )
            name = self._names[int(pairs.row_classes[row])]
            text = (
                f"a detection of {name!r} (score {pairs.scores[row]:.2f}) lies on no object; {right:.0%} of detections "
                f"like it are right"
            )
            yield self._suspect(MISSING, right * evidence.agreement(1), 1 - covered, text, (), [row])

    def _name_of(self, place: int) -> str:
        return repr(self._names[int(self._pairs.object_classes[place])])


def _parts_of(area: float, part_areas: Floats, ious: Floats, part_ious: Floats) -> tuple[list[int], float, float]:
    """The parts that cover a whole together: their rows, the IoU that they gain over the best one, and that one's IoU.

    Args:
        area: of the whole.
        part_areas: (P,).
        ious: (P,) of each part with the whole.
        part_ious: (P, P) between parts.

    Returns:
        No rows if fewer than two parts are inside, or one of them fits alone.
    """
    shared = ious * (area + part_areas) / (1 + ious)
    inside = np.flatnonzero(shared >= INSIDE * part_areas)
    best = float(ious.max(initial=0.0))
    if len(inside) < 2 or best >= MAX_SINGLE_IOU:
        return [], 0.0, best
    sums = part_areas[:, None] + part_areas[None]
    between = part_ious * sums / (1 + part_ious)
    parts: list[int] = []
    covered = outside = 0.0
    for part in inside[np.argsort(-shared[inside], kind="stable")].tolist():
        doubled = min(float(between[part, parts].sum()), float(shared[part]))
        if doubled <= MATCH_IOU * part_areas[part]:  # else a duplicate of an earlier part
            parts.append(part)
            covered += float(shared[part]) - doubled
            outside += float(part_areas[part] - shared[part])
    gain = min(1.0, covered / (area + outside)) - best
    return (parts, gain, best) if len(parts) > 1 and gain > 0 else ([], 0.0, best)


def _is_annotated(image: dict[str, Any], class_id: int, present: set[int]) -> bool:
    """Whether all objects of a class are annotated in an image; see `FederatedLabels`."""
    if "neg_category_ids" not in image:
        return True
    known = present | set(image["neg_category_ids"])
    return class_id in known and class_id not in image.get("not_exhaustive_category_ids", ())
