"""Equal and nearly equal images: between training and validation, and within a dataset."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.doctor.examined import TRAIN, VAL, DoctorInput, Side, images_read
from mrcnn_zoo.doctor.finding import EXAMPLES_KEPT, Example, Finding, Severity, percent
from mrcnn_zoo.doctor.hashes import near_pairs
from mrcnn_zoo.errors import counted

SEVERE_SHARE = 0.05  # of the images; from it on, leakage is an error, and near-duplicates within are a warning
FIRST_BYTES = 1 << 16  # of files of equal size, compared before the rest is read


@dataclass(frozen=True)
class Picture:
    """An image of a dataset.

    Args:
        side: that it belongs to.
        record: of the image.
    """

    side: Side
    record: ImageRecord

    @property
    def key(self) -> tuple[str, str, int]:
        """Different for all images of all sides."""
        return self.side.role, self.side.name, self.record.image_id


@dataclass(frozen=True)
class SimilarPair:
    """Two images that are equal or nearly equal.

    Args:
        one: the first.
        other: the second.
        text: how similar.
    """

    one: Picture
    other: Picture
    text: str

    @property
    def key(self) -> frozenset[Hashable]:
        """The same for both orders."""
        return frozenset((self.one.key, self.other.key))


def check_similar_images(examined: DoctorInput) -> Iterator[Finding]:
    """Images that are in the training and in the validation data, and images that a dataset has twice.

    Args:
        examined: datasets and settings.
    """
    equal = {pair.key: pair for pair in equal_pairs(examined.sides)}
    near = {pair.key: pair for pair in similar_pairs(examined.sides) if pair.key not in equal}
    for pairs, is_equal in ((list(equal.values()), True), (list(near.values()), False)):
        yield from _leaks(examined, pairs, is_equal=is_equal)
        for side in examined.sides:
            within = [pair for pair in pairs if pair.one.side is side and pair.other.side is side]
            if within:
                yield _repeated(side, within, is_equal=is_equal)


def equal_pairs(sides: Iterable[Side]) -> Iterator[SimilarPair]:
    """Image files with equal bytes, of all files of all sides.

    Args:
        sides: the datasets.
    """
    files = [
        Picture(side, record)
        for side in sides
        for record in {record.source: record for record in side.dataset.records}.values()
        if isinstance(record.source, FileImage) and Path(record.source.path).is_file()
    ]
    groups = _grouped([files], lambda path: path.stat().st_size)
    groups = _grouped(groups, lambda path: _digest(path, FIRST_BYTES))
    groups = _grouped(groups, lambda path: _digest(path, None))
    for group in groups:
        for one, other in combinations(group, 2):
            is_same = one.record.source == other.record.source
            yield SimilarPair(one, other, "the same file" if is_same else "equal files")


def _grouped(groups: Iterable[Sequence[Picture]], key: Callable[[Path], Hashable]) -> list[list[Picture]]:
    """Each group divided into those of equal keys, without groups of one file."""
    divided = []
    for group in groups:
        parts: defaultdict[Hashable, list[Picture]] = defaultdict(list)
        for picture in group:
            parts[key(Path(picture.record.source.name))].append(picture)
        divided += [part for part in parts.values() if len(part) > 1]
    return divided


def _digest(path: Path, num_bytes: int | None) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(num_bytes)).digest()


def similar_pairs(sides: Iterable[Side]) -> Iterator[SimilarPair]:
    """Nearly equal images of the samples.

    Args:
        sides: the datasets.
    """
    found = [
        (Picture(side, record), facts.thumbnail)
        for side in sides
        for record, facts in zip(side.sample, side.images, strict=True)
        if facts.thumbnail is not None
    ]
    for near in near_pairs([thumbnail for _, thumbnail in found]):
        text = f"correlation {near.correlation:.3f}{', mirrored or turned' if near.is_turned else ''}"
        yield SimilarPair(found[near.one][0], found[near.other][0], text)


def _leaks(examined: DoctorInput, pairs: Sequence[SimilarPair], *, is_equal: bool) -> Iterator[Finding]:
    """A finding per validation set with images that are trained on."""
    for side in examined.of_role(VAL):
        partners: dict[int, SimilarPair] = {}
        for pair in pairs:
            roles = {pair.one.side.role: pair.one, pair.other.side.role: pair.other}
            if set(roles) == {TRAIN, VAL} and roles[VAL].side is side:
                partners.setdefault(roles[VAL].record.image_id, SimilarPair(roles[VAL], roles[TRAIN], pair.text))
        if not partners:
            continue
        trained = examined.of_role(TRAIN)
        total = len(side.dataset) if is_equal else len(side.rows)
        extent = "" if is_equal else f" ({images_read([side])} compared with {images_read(trained)})"
        yield Finding(
            Severity.ERROR if len(partners) >= SEVERE_SHARE * total else Severity.WARNING,
            f"{side.name}: {counted(len(partners), 'validation image')} ({percent(len(partners), total)}) also among "
            f"the training images, {'equal files' if is_equal else 'nearly equal pictures'}{extent}",
            "The validation then measures what was memorised, and selects the best checkpoint by it. Take these images "
            "out of one side. Images of one scene, patient or video belong on one side: DATASETS.GROUP.",
            count=len(partners),
            total=total,
            examples=_examples(list(partners.values())),
        )


def _repeated(side: Side, pairs: Sequence[SimilarPair], *, is_equal: bool) -> Finding:
    images = {picture.record.image_id for pair in pairs for picture in (pair.one, pair.other)}
    total = len(side.dataset) if is_equal else len(side.rows)
    is_severe = is_equal or len(images) >= SEVERE_SHARE * total
    what = "are equal files" if is_equal else "look nearly equal"
    extent = "" if is_equal else f", of {images_read([side])}"
    return Finding(
        Severity.WARNING if is_severe else Severity.NOTE,
        f"{side.name}: {len(images):,} images {what} ({counted(len(pairs), 'pair')}){extent}",
        "They count twice. Keep one of each, or at least keep them on one side of every split (DATASETS.GROUP).",
        count=len(images),
        total=total,
        examples=_examples(pairs),
    )


def _examples(pairs: Sequence[SimilarPair]) -> tuple[Example, ...]:
    return tuple(Example(pair.text, pair.one.record, other=pair.other.record) for pair in pairs[:EXAMPLES_KEPT])
