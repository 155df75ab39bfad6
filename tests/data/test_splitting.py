"""The stratified split."""

import pytest

from mrcnn_zoo.data.formats.dsb2018 import choose_validation

STRATA = {f"image{number}": "big" if number < 70 else "small" if number < 97 else "rare" for number in range(100)}


def test_share_is_exact_and_proportional() -> None:
    chosen = choose_validation(STRATA, 0.2)
    counts = {stratum: sum(STRATA[name] == stratum for name in chosen) for stratum in set(STRATA.values())}
    # Shares are 14, 5.4 and 0.6: the seat left over goes to the stratum that is owed most.
    assert counts == {"big": 14, "small": 5, "rare": 1}


def test_order_does_not_matter() -> None:
    backwards = dict(reversed(STRATA.items()))
    assert choose_validation(STRATA, 0.2) == choose_validation(backwards, 0.2)


def test_choice_is_the_same_on_every_machine() -> None:
    names = dict.fromkeys(("a", "b", "c", "d", "e"), "one")
    # sha256sum of "0:a" to "0:e" begins with 9d, e0, be, 7d, e0: the two smallest are those of d and a.
    assert choose_validation(names, 0.4) == {"a", "d"}


def test_another_seed_chooses_others() -> None:
    assert choose_validation(STRATA, 0.2, seed=1) != choose_validation(STRATA, 0.2, seed=0)


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (1.0, 100), (0.5, 50)])
def test_extreme_fractions(fraction: float, count: int) -> None:
    assert len(choose_validation(STRATA, fraction)) == count


def test_no_images_have_no_validation() -> None:
    assert choose_validation({}, 0.2) == set()
