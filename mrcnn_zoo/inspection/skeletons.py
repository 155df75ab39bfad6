"""Keypoints of an instance, and the lines between them."""

from collections.abc import Sequence

from mrcnn_zoo.inspection.canvas import Canvas, Color

Skeleton = Sequence[tuple[int, int]]  # rows of keypoints that a line connects

LEAST_SCORE = 0.05  # of a predicted point that is drawn
# Lin et al. 2014 (COCO): nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left before right.
PERSON_KEYPOINTS = 17
ARMS_AND_LEGS = ((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16))
HEAD_AND_TRUNK = ((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 11), (6, 12), (11, 12))


def draw_keypoints(
    canvas: Canvas, points: Sequence[Sequence[float]], color: Color, *, skeleton: Skeleton = (), is_scored: bool
) -> None:
    """Draw what is known of one instance: labelled points, or those that are predicted with some confidence.

    Args:
        canvas: of the image.
        points: (J, 3): x, y in pixels, and the score or the visibility, which is 0 where nothing is labelled.
        color: of the instance.
        skeleton: empty takes that of COCO's people for 17 points, and no lines for others.
        is_scored: the third number is a score.
    """
    least = LEAST_SCORE if is_scored else 0.0
    if not skeleton and len(points) == PERSON_KEYPOINTS:
        skeleton = HEAD_AND_TRUNK + ARMS_AND_LEGS
    known = {row: (point[0], point[1]) for row, point in enumerate(points) if point[2] > least}
    for first, second in skeleton:
        if first in known and second in known:
            canvas.line(known[first], known[second], color)
    for point in known.values():
        canvas.dot(point, color)
