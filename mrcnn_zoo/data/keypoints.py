"""Pairs of keypoints that a mirror exchanges: from their names, a file or the config."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mrcnn_zoo.errors import UserError

FlipPairs = tuple[tuple[int, int], ...]

# COCO's keypoints are pixel indices from 0; coordinates here are continuous, with pixel centres at one half.
PIXEL_CENTER = 0.5

# Words for left and right in names of keypoints.
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
# Words in a name: numbers, and runs of letters, split at changes from lower to upper case.
TOKENS = re.compile(r"\d+|[^\W\d_]+")
CAMEL = re.compile(r"(?<=[a-zà-ÿ])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

Words = tuple[str, ...]


@dataclass(frozen=True)
class Sides:
    """Keypoints with a side in their names."""

    pairs: FlipPairs  # rows of the left and the right keypoint
    unpaired: tuple[str, ...] = ()  # names with a side but no counterpart


def flip_pairs(names: Sequence[str]) -> FlipPairs:
    """Rows of the keypoints whose names differ only in left and right; see `sides_of`.

    >>> flip_pairs(["nose", "left_eye", "right_eye"])
    ((1, 2),)
    """
    return sides_of(names).pairs


def pairs_by_name(names: Sequence[str]) -> FlipPairs | None:
    """The pairs of `sides_of`; None if they are unknown: no name has a side, or one has no counterpart."""
    sides = sides_of(names)
    return sides.pairs if not names or (sides.pairs and not sides.unpaired) else None


def sides_of(names: Sequence[str]) -> Sides:
    """Pairs of names such as left_eye and right_eye, LeftEye and RightEye, L-eye and R-eye, eye.l and eye.r.

    Letters and abbreviations count only if exchanging them gives another name of the list.

    Args:
        names: (J,) of the keypoints.
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
    unpaired = [
        names[row]
        for row, item in enumerate(words)
        if row not in taken and (_has_side_word(item) or (is_abbreviated and _has_abbreviation(item)))
    ]
    return Sides(tuple(sorted(pairs.items())), tuple(unpaired))


def _words(name: str) -> Words:
    """The words of a name in lower case, split at separators, capitals and digits."""
    spaced = CAMEL.sub(" ", name)
    return tuple(word.lower() for word in TOKENS.findall(spaced))


def _joined(words: Words) -> str:
    return "".join(words)


def _exchange_words(words: Words) -> Iterator[Words]:
    """The names with left replaced by right; also inside a word, as in "lefteye"."""
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
    """Pairs of names, or of rows counted from 0 (from 1 if the largest row is the number of names).

    Args:
        pairs: a list of pairs, or a mapping of one name to the other.
        names: (J,) of the keypoints.
        where: the config key or the field of a file, for messages.

    Raises:
        UserError: a value that is not a list of pairs of different keypoints.
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
    """Pairs from the permutation of the keypoints by a mirror.

    Args:
        order: per keypoint its counterpart, or itself: a row counted from 0 or 1, or a name.
        names: (J,) of the keypoints.
        where: the config key or the field of a file, for messages.

    Raises:
        UserError: a list that is not its own inverse.
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
        raise UserError(f"{where} = {order!r} does not give the same keypoints after two mirrors.")
    return tuple((row, other) for row, other in enumerate(raw) if row < other)
