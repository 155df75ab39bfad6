"""Which keypoints change places in a mirror: by their names, or as a file or the config says."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mrcnn_zoo.errors import UserError

FlipPairs = tuple[tuple[int, int], ...]

# COCO's keypoints are pixel indices from 0; coordinates here are continuous, with pixel centres at one half.
PIXEL_CENTER = 0.5

# The words for the two sides, as they stand in names of keypoints.
SIDE_WORDS = (
    ("left", "right"),
    ("links", "rechts"),
    ("linke", "rechte"),
    ("linker", "rechter"),
    ("linkes", "rechtes"),
    ("gauche", "droite"),
    ("gauche", "droit"),
    ("izquierda", "derecha"),
    ("izquierdo", "derecho"),
    ("izq", "der"),
    ("sinistra", "destra"),
    ("sinistro", "destro"),
    ("esquerda", "direita"),
    ("esquerdo", "direito"),
    ("lewa", "prawa"),
    ("lewy", "prawy"),
    ("lewe", "prawe"),
    ("левый", "правый"),
    ("левая", "правая"),
    ("левое", "правое"),
    ("左", "右"),
    ("왼쪽", "오른쪽"),
)
ABBREVIATIONS = (("l", "r"), ("lt", "rt"), ("lft", "rgt"), ("lft", "rght"))
LETTERS = ("l", "r")  # also within a word, at its beginning or end: "leye", "eyel"
# Words in names: digits, capitals before a capitalised word, a word in one case.
TOKENS = re.compile(r"\d+|[^\W\d_]+")
CAMEL = re.compile(r"(?<=[a-zà-ÿ])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

Words = tuple[str, ...]


@dataclass(frozen=True)
class Sides:
    """What the names of keypoints say of left and right.

    Args:
        pairs: rows of two keypoints that change places in a mirror, the left one first.
        alone: names with a side whose counterpart is missing.
    """

    pairs: FlipPairs
    alone: tuple[str, ...] = ()


def flip_pairs(names: Sequence[str]) -> FlipPairs:
    """Rows of the keypoints whose names differ by left and right only; see `sides_of`.

    >>> flip_pairs(["nose", "left_eye", "right_eye"])
    ((1, 2),)
    """
    return sides_of(names).pairs


def pairs_by_name(names: Sequence[str]) -> FlipPairs | None:
    """The pairs that names tell; None where they do not: no name has a side, or one lacks its counterpart."""
    sides = sides_of(names)
    return sides.pairs if not names or (sides.pairs and not sides.alone) else None


def sides_of(names: Sequence[str]) -> Sides:
    """Pairs of names such as left_eye and right_eye, LeftEye and RightEye, L-eye and R-eye, eye.l and eye.r.

    Letters and abbreviations count only where exchanging them gives another of the names.
    """
    words = [_words(name) for name in names]
    pairs: dict[int, int] = {}
    is_abbreviated = False
    for rule in (_exchange_words, _exchange_abbreviations, _exchange_first_letter, _exchange_last_letter):
        rows = {_joined(item): row for row, item in enumerate(words)}
        taken = {*pairs, *pairs.values()}
        for row, item in enumerate(words):
            partners = [rows.get(_joined(other)) for other in rule(item)] if row not in taken else []
            partner = next((other for other in partners if other is not None and other not in (row, *taken)), None)
            if partner is not None:
                pairs[row] = partner
                taken |= {row, partner}
                is_abbreviated |= rule is _exchange_abbreviations
    taken = {*pairs, *pairs.values()}
    alone = [
        names[row]
        for row, item in enumerate(words)
        if row not in taken and (_has_side_word(item) or (is_abbreviated and _has_abbreviation(item)))
    ]
    return Sides(tuple(sorted(pairs.items())), tuple(alone))


def _words(name: str) -> Words:
    """The words of a name in lower case: those that separators, capitals or digits set apart."""
    spaced = CAMEL.sub(" ", name)
    return tuple(word.lower() for word in TOKENS.findall(spaced))


def _joined(words: Words) -> str:
    return "".join(words)


def _exchange_words(words: Words) -> Iterator[Words]:
    """The name with the word of the other side, where left stands in it; also within a word, as in "lefteye"."""
    for left, right in SIDE_WORDS:
        if left in words:
            other = {left: right, right: left}
            yield tuple(other.get(word, word) for word in words)
        if any(left in word for word in words):
            yield tuple(word.replace(left, right) for word in words)
            yield tuple(word.replace(left, right, 1) for word in words)


def _exchange_abbreviations(words: Words) -> Iterator[Words]:
    for left, right in ABBREVIATIONS:
        places = [place for place, word in enumerate(words) if word == left]
        if places:
            yield tuple(right if word == left else word for word in words)
        for place in places:
            yield (*words[:place], right, *words[place + 1 :])


def _exchange_first_letter(words: Words) -> Iterator[Words]:
    left, right = LETTERS
    for place, word in enumerate(words):
        if word.startswith(left):
            yield (*words[:place], right + word[1:], *words[place + 1 :])


def _exchange_last_letter(words: Words) -> Iterator[Words]:
    left, right = LETTERS
    for place, word in enumerate(words):
        if word.endswith(left):
            yield (*words[:place], word[:-1] + right, *words[place + 1 :])


def _has_side_word(words: Words) -> bool:
    return any(word in pair for word in words for pair in SIDE_WORDS)


def _has_abbreviation(words: Words) -> bool:
    return any(word in pair for word in words for pair in ABBREVIATIONS[:2])


def read_pairs(pairs: Any, names: Sequence[str], *, where: str) -> FlipPairs:
    """Pairs as someone wrote them: of names, or of rows counted from 0 (from 1 where a row is the number of names).

    Args:
        pairs: a list of pairs, or a mapping of one name to the other.
        names: of the keypoints.
        where: the key or the place in a file, for messages.

    Raises:
        UserError: what is no list of pairs of different keypoints.
    """
    items = list(pairs.items()) if isinstance(pairs, dict) else pairs
    rule = f"must be a list of pairs of keypoints, e.g. [[left_eye, right_eye]]; the keypoints are {', '.join(names)}"
    if not isinstance(items, list | tuple) or not all(isinstance(pair, list | tuple) for pair in items):
        raise UserError(f"{where} = {pairs!r} {rule}.")
    rows = {name: row for row, name in enumerate(names)}
    numbers = [end for pair in items for end in pair if isinstance(end, int) and not isinstance(end, bool)]
    shift = 1 if numbers and max(numbers) == len(names) and min(numbers) >= 1 else 0
    known: dict[Any, int] = {row + shift: row for row in range(len(names))}
    known.update(rows)
    read: list[tuple[int, int]] = []
    for pair in items:
        ends = [known.get(end) if type(end) in (str, int) else None for end in pair]
        if len(ends) != 2 or None in ends or ends[0] == ends[1]:
            raise UserError(f"{where} has {list(pair)!r}; it {rule}.")
        read.append((ends[0], ends[1]))  # type: ignore[arg-type]
    distinct = {frozenset(pair): pair for pair in reversed(read)}
    used = [row for pair in distinct.values() for row in pair]
    if len(set(used)) != len(used):
        raise UserError(f"{where} = {pairs!r} has a keypoint in two pairs.")
    return tuple(sorted(distinct.values()))


def read_permutation(order: Any, names: Sequence[str], *, where: str) -> FlipPairs:
    """Pairs from the list that gives for each keypoint the one it becomes in a mirror, itself where that is the same.

    Args:
        order: one row per keypoint, counted from 0 or 1, or one name.
        names: of the keypoints.
        where: the key or the place in a file, for messages.

    Raises:
        UserError: a list that does not lead back after two mirrors.
    """
    count = len(names)
    rows = {name: row for row, name in enumerate(names)}
    items = order if isinstance(order, list) else []
    raw: list[Any] = [rows.get(item, item) if isinstance(item, str) else item for item in items]
    if all(isinstance(item, int) for item in raw) and sorted(raw) == list(range(1, count + 1)):
        raw = [item - 1 for item in raw]
    if not all(isinstance(item, int) for item in raw) or sorted(raw) != list(range(count)):
        raise UserError(f"{where} = {order!r} must have each of the {count} keypoints once.")
    if any(raw[raw[row]] != row for row in range(count)):
        raise UserError(f"{where} = {order!r} does not lead back to the same keypoints after two mirrors.")
    return tuple((row, other) for row, other in enumerate(raw) if row < other)
