"""Numbers of objects over frames, on constructed masks."""

from collections.abc import Sequence

import numpy as np
import torch

from mrcnn_zoo.inference.tracking import Tracker
from mrcnn_zoo.structures import BoxedBitmaps, Detections

SIZE = (100, 200)
SIDE = 20  # pixels of an object
Place = tuple[float, float]  # x, y of the upper left pixel


def detections(places: Sequence[Place], classes: Sequence[int] = (), *, has_masks: bool = True) -> Detections:
    """Discs, or their boxes."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    disc = rows**2 + columns**2 <= SIDE**2 / 4
    origins = np.array([(round(x), round(y)) for x, y in places]).reshape(-1, 2)
    boxes = torch.tensor(np.concatenate([origins, origins + SIDE], axis=1), dtype=torch.float32)
    return Detections(
        SIZE,
        boxes,
        torch.ones(len(places)),
        torch.tensor(classes or [0] * len(places), dtype=torch.int64),
        BoxedBitmaps.from_windows(origins, [disc] * len(places), SIZE) if has_masks else None,
    )


def numbers(tracker: Tracker, places: Sequence[Place], classes: Sequence[int] = ()) -> list[int]:
    tracks = tracker.update(detections(places, classes)).tracks
    assert tracks is not None
    return tracks.tolist()


def test_moving_objects_keep_their_numbers_in_any_order() -> None:
    tracker = Tracker()
    assert numbers(tracker, [(10, 10), (100, 50)]) == [1, 2]
    assert numbers(tracker, [(96, 50), (14, 12)]) == [2, 1]
    assert numbers(tracker, [(18, 14), (92, 50)]) == [1, 2]


def test_objects_that_cross_keep_their_numbers_even_if_one_is_hidden_meanwhile() -> None:
    tracker = Tracker()
    for step in range(21):
        first, second = (10 + 6 * step, 40), (130 - 6 * step, 44)
        is_hidden = 8 <= step <= 11  # the second one, behind the first
        found = numbers(tracker, [first] if is_hidden else [first, second])
        assert found == ([1] if is_hidden else [1, 2])


def test_object_that_is_missed_in_two_frames_keeps_its_number_while_it_moves_on() -> None:
    tracker = Tracker()
    for step in range(12):
        is_missed = step in (5, 6)
        assert numbers(tracker, [] if is_missed else [(10 + 9 * step, 40)]) == ([] if is_missed else [1])


def test_object_that_was_missed_for_longer_gets_an_unused_number() -> None:
    tracker = Tracker(max_missed=2)
    assert numbers(tracker, [(10, 10)]) == [1]
    for _ in range(2):
        assert numbers(tracker, []) == []
    assert numbers(tracker, [(10, 10)]) == [1]
    for _ in range(3):
        assert numbers(tracker, []) == []
    assert numbers(tracker, [(10, 10)]) == [2]
    assert tracker.count == 2


def test_new_object_gets_an_unused_number() -> None:
    tracker = Tracker()
    assert numbers(tracker, [(10, 10), (50, 10)]) == [1, 2]
    assert numbers(tracker, [(90, 10), (50, 10)]) == [3, 2]
    assert numbers(tracker, [(10, 70), (90, 10)]) == [4, 3]


def test_overlapping_objects_are_matched_by_their_class() -> None:
    tracker = Tracker()
    assert numbers(tracker, [(50, 50), (52, 50)], [3, 8]) == [1, 2]
    assert numbers(tracker, [(51, 50), (51, 50)], [8, 3]) == [2, 1]


def test_object_keeps_its_number_when_its_class_changes() -> None:
    tracker = Tracker()
    assert numbers(tracker, [(50, 50)], [3]) == [1]
    assert numbers(tracker, [(52, 50)], [8]) == [1]


def test_matches_have_the_largest_sum_of_overlaps() -> None:
    tracker = Tracker()
    assert numbers(tracker, [(50, 50), (60, 50)]) == [1, 2]
    # The best single match is (60, 50) with the place of 2 two pixels away; then 1 would have none.
    assert numbers(tracker, [(58, 50), (70, 50)]) == [1, 2]


def test_detections_of_a_frame_never_share_a_number() -> None:
    tracker = Tracker()
    assert numbers(tracker, [(50, 50)]) == [1]
    assert sorted(numbers(tracker, [(50, 50), (50, 50), (51, 50)])) == [1, 2, 3]


def test_objects_without_masks_are_matched_by_their_boxes() -> None:
    tracker = Tracker()
    tracker.update(detections([(10, 10), (60, 10)], has_masks=False))
    found = tracker.update(detections([(64, 10), (14, 10)], has_masks=False))
    assert found.tracks is not None
    assert found.tracks.tolist() == [2, 1]


def test_rows_keep_their_numbers_when_they_are_selected() -> None:
    tracker = Tracker()
    found = tracker.update(detections([(10, 10), (60, 10), (100, 10)]))
    assert found[torch.tensor([2, 0])].tracks.tolist() == [3, 1]  # type: ignore[union-attr]
