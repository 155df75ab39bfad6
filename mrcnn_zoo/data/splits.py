"""Stratified splits of datasets into parts, and nested subsets of them.

Images are units; those of one file, or of one group, are one unit that is never divided. Equal file names, annotations
and seeds give equal results: neither the order of the images nor the folder of the dataset matters.
"""

import hashlib
import os.path
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError, counted

NO_OBJECT = ("no object", "")  # the label of images without objects
DATASET, CLASS, STRATUM = "dataset", "class", "stratum"  # kinds of labels

Label = tuple[str, str]  # kind and name


@dataclass
class Unit:
    """Images that stay together.

    Args:
        key: name of the file, relative to the folder of its dataset, or of the group.
        rows: of its images, in the concatenation of all datasets.
        labels: number of its images per label: a class, `NO_OBJECT`, a stratum, or one of several datasets.
    """

    key: str
    rows: list[int] = field(default_factory=list)
    labels: Counter[Label] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.rows)


def units_of(datasets: Sequence[Dataset], *, group: str = "") -> list[Unit]:
    """The images of some datasets as units, ordered by key.

    Args:
        datasets: their rows are counted through, in this order.
        group: regular expression that is searched in the name of each image file, relative to the folder of its
            dataset and with slashes; its first group is the name of the unit. Empty: a unit per file.

    Raises:
        UserError: a file whose name does not match.
    """
    pattern = re.compile(group) if group else None
    units: dict[str, Unit] = {}
    key_of_file: dict[str, str] = {}
    row = 0
    for dataset in datasets:
        names = relative_names(dataset.records)
        for record, name in zip(dataset.records, names, strict=True):
            file = getattr(record.source, "path", record.source.name)  # pages of one file stay together
            if file not in key_of_file:
                key_of_file[file] = _group_of(name, pattern, dataset.name) if pattern else name
            # Files of equal relative names in two datasets are two images.
            key = key_of_file[file] if pattern else f"{key_of_file[file]}\0{file}"
            unit = units.setdefault(key, Unit(key_of_file[file]))
            unit.rows.append(row)
            unit.labels.update(labels_of(record, dataset.class_names))
            if len(datasets) > 1:
                unit.labels[DATASET, dataset.name] += 1
            row += 1
    return sorted(units.values(), key=lambda unit: (unit.key, unit.rows))


def relative_names(records: Sequence[ImageRecord]) -> list[str]:
    """The names of the image files, relative to the folder that has all of them, with slashes.

    Args:
        records: of one dataset.
    """
    names = [record.source.name.replace(os.sep, "/") for record in records]
    folders = {name.rpartition("/")[0] for name in names}
    common = os.path.commonpath(folders) if folders and len({name[:1] == "/" for name in names}) == 1 else ""
    start = len(common.rstrip("/")) + 1 if common else 0
    return [name[start:] for name in names]


def _group_of(name: str, pattern: re.Pattern[str], dataset: str) -> str:
    found = pattern.search(name)
    if found is None or not found[1]:
        problem = "does not match" if found is None else "has an empty first group in"
        raise UserError(
            f"the image {name!r} of dataset {dataset!r} {problem} the pattern {pattern.pattern!r} (DATASETS.GROUP), so "
            "its group is unknown. Write a regular expression that matches the name of each image, with the group's "
            "name in its first parentheses, e.g. '^([^_/]+)' for the text before the first underscore."
        )
    return found[1]


def labels_of(record: ImageRecord, class_names: Sequence[str]) -> set[Label]:
    """The classes of the objects of an image, without crowds, or `NO_OBJECT`; and its stratum, if it has one.

    Args:
        record: of the image.
        class_names: (K,) of its dataset.
    """
    found = {(CLASS, class_names[item.class_index]) for item in record.instances if not item.is_crowd}
    return (found or {NO_OBJECT}) | ({(STRATUM, record.stratum)} if record.stratum else set())


def assign_parts(units: Sequence[Unit], shares: Sequence[float], *, seed: int = 0) -> list[int]:
    """Number of the part of each unit, so that each part has its share of the images of each label.

    Greedy, rarest label first and larger units first: each unit is assigned where it leaves the lowest sum of squared
    errors of the counts per label, divided by the part's target and the label's total. Where units are single images,
    the sizes of the parts are exact.
    Source: after Sechidis et al. 2011 (On the Stratification of Multi-label Data), with groups as in scikit-learn's
    StratifiedGroupKFold.

    Args:
        units: at least as many as parts; each part gets one at least.
        shares: of the images, per part; above 0, with the sum 1.
        seed: of the order of equal units.

    Raises:
        UserError: fewer units than parts.
    """
    if len(units) < len(shares):
        raise UserError(
            f"{counted(len(units), 'image or group', 'images or groups')} cannot be divided into {len(shares)} parts."
        )
    counts = _label_counts(units)
    totals = counts.sum(axis=0)
    targets = np.outer(shares, totals)
    free = np.array(_whole_shares(sum(map(len, units)), shares))
    present = np.zeros_like(targets)
    parts = np.full(len(units), -1)
    order = _rarest_first(units, seed=seed)
    for position, number in enumerate(order):
        labels = np.flatnonzero(counts[number])
        added = counts[number, labels]
        growth = added * (2 * (present - targets)[:, labels] + added)  # of the squared errors
        costs = (growth / targets[:, labels] / totals[labels]).sum(axis=1)
        is_empty = present[:, 0] == 0
        allowed = is_empty if is_empty.sum() == len(order) - position else free >= len(units[number])
        costs[~allowed if allowed.any() else np.zeros_like(allowed)] = np.inf
        part = int(costs.argmin())
        parts[number] = part
        present[part] += counts[number]
        free[part] -= len(units[number])
    return parts.tolist()


def stratified_order(units: Sequence[Unit], *, seed: int = 0) -> list[int]:
    """An order of the units in which each beginning has about the same share of each stratum.

    A stratum has the units with the same rarest label. Its units are spread evenly over [0, 1) from a random start,
    neighbours in label sets far apart (van der Corput); the order is that of these positions.

    Args:
        units: of one or several datasets.
        seed: of the order.
    """
    strata: dict[tuple[Label, ...], list[int]] = {}
    frequency = _frequencies(units)
    for number in _rarest_first(units, seed=seed):
        datasets = tuple(label for label in sorted(units[number].labels) if label[0] == DATASET)
        strata.setdefault((*datasets, _by_rarity(units[number], frequency)[0]), []).append(number)
    positions: dict[int, float] = {}
    for stratum, members in strata.items():
        rng = np.random.default_rng(int(digest(repr(stratum), seed)[:16], 16))
        shift, start = int(rng.integers(len(members))), float(rng.random())
        spread = [members[(row + shift) % len(members)] for row in _van_der_corput(len(members))]
        sizes = [len(units[number]) for number in spread]
        for number, size, before in zip(spread, sizes, accumulate([0, *sizes[:-1]]), strict=True):
            positions[number] = (before + start * size) / sum(sizes)
    return sorted(positions, key=lambda number: (positions[number], digest(units[number].key, seed)))


def nested_subset(units: Sequence[Unit], share: float, *, seed: int = 0) -> list[int]:
    """Numbers of the units of a stratified subset; that of a smaller share is contained in that of a larger one.

    Args:
        units: of one or several datasets.
        share: of their images, in (0, 1]; the nearest number of images that whole units give.
        seed: of the choice.
    """
    order = stratified_order(units, seed=seed)
    sums = np.array([0, *accumulate(len(units[number]) for number in order)])
    return sorted(order[: int(np.abs(sums - share * sums[-1]).argmin())])


def rows_of(units: Sequence[Unit]) -> list[int]:
    """The rows of all images of some units, ascending.

    Args:
        units: disjoint.
    """
    return sorted(row for unit in units for row in unit.rows)


def digest(name: str, seed: int) -> str:
    """A hash in hexadecimal that orders names at random, but the same everywhere.

    Args:
        name: of an image or group.
        seed: another order for each.
    """
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _frequencies(units: Sequence[Unit]) -> Counter[Label]:
    total: Counter[Label] = Counter()
    for unit in units:
        total.update(unit.labels)
    return total


def _by_rarity(unit: Unit, frequency: Mapping[Label, int]) -> list[Label]:
    """Labels of a unit other than its dataset, the rarest first."""
    return sorted((label for label in unit.labels if label[0] != DATASET), key=lambda label: (frequency[label], label))


def _rarest_first(units: Sequence[Unit], *, seed: int) -> list[int]:
    """Numbers of the units: by rarest label, then larger units first, then by label set, then at random."""
    frequency = _frequencies(units)
    ranks = {label: rank for rank, (label, _) in enumerate(sorted(frequency.items(), key=lambda item: item[::-1]))}
    keys: dict[int, tuple[object, ...]] = {}
    for number, unit in enumerate(units):
        labels = [ranks[label] for label in _by_rarity(unit, frequency)]
        keys[number] = (labels[0], -unit.labels[_by_rarity(unit, frequency)[0]], labels, digest(unit.key, seed))
    return sorted(keys, key=keys.__getitem__)


def _label_counts(units: Sequence[Unit]) -> NDArray[np.float64]:
    """(units, 1 + labels) number of images, of all and per label."""
    columns = {label: column for column, label in enumerate(sorted(_frequencies(units)), start=1)}
    counts = np.zeros((len(units), 1 + len(columns)))
    for number, unit in enumerate(units):
        counts[number, 0] = len(unit)
        for label, count in unit.labels.items():
            counts[number, columns[label]] = count
    return counts


def _whole_shares(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers with the sum `count` in the proportion of the shares, by largest remainders."""
    exact = [count * share for share in shares]
    whole = [int(number + 1e-9) for number in exact]
    by_remainder = sorted(range(len(shares)), key=lambda part: (whole[part] - exact[part], part))
    for part in by_remainder[: count - sum(whole)]:
        whole[part] += 1
    return whole


def _van_der_corput(count: int) -> Iterator[int]:
    """0 to count - 1 in the order of their reversed binary digits."""
    bits = max(count - 1, 0).bit_length()
    reversed_digits = (int(f"{number:0{bits}b}"[::-1], 2) if bits else 0 for number in range(1 << bits))
    return (number for number in reversed_digits if number < count)
