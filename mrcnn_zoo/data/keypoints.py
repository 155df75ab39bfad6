"""What the names of key points tell."""

from collections.abc import Sequence

SIDES = ("left", "right")


def flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Rows of the key points whose names differ by left and right only.

    >>> flip_pairs(["nose", "left_eye", "right_eye"])
    ((1, 2),)
    """
    left, right = SIDES
    rows = {name: row for row, name in enumerate(names)}
    partners = [(row, rows.get(name.replace(left, right))) for name, row in rows.items() if left in name]
    return tuple((row, partner) for row, partner in partners if partner is not None)
