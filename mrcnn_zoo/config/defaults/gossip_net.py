"""Defaults of GossipNet, a suppression that learns."""

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    SHARE_BELOW_ONE,
    Key,
    Range,
)

DETECTRON2_KEYS = ()
NEW_KEYS = (
    Key(
        "MODEL.GOSSIP_NET.NUM_BLOCKS",
        16,
        "Blocks of GossipNet; in each, overlapping detections exchange messages.",
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.GOSSIP_NET.DIM", 128, "Features per detection in GossipNet.", range=AT_LEAST_ONE),
    Key(
        "MODEL.GOSSIP_NET.REDUCED_DIM",
        32,
        "Features per detection and per pair of detections inside a block of GossipNet.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.GOSSIP_NET.NEIGHBOR_IOU",
        0.2,
        "Detections of an image with a larger IoU exchange messages in GossipNet.",
        range=SHARE_BELOW_ONE,
    ),
    Key(
        "MODEL.GOSSIP_NET.JOIN_CLASSES",
        True,
        "Whether detections of different classes exchange messages, too, as in the paper. False has several times "
        "fewer pairs, and takes less time and memory.",
    ),
    Key(
        "MODEL.GOSSIP_NET.MAX_CANDIDATES",
        1000,
        "Detections per image that GossipNet gets, those with the highest scores; the others are dropped. The IoU of "
        "all pairs of them is computed, and the features of those that are neighbours.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.GOSSIP_NET.MIN_SCORE",
        0.01,
        "Detections with a lower new score by GossipNet, in [0, 1], are dropped.",
        range=SHARE,
    ),
    Key(
        "MODEL.GOSSIP_NET.MATCH_IOUS",
        [0.5, 0.6, 0.7, 0.8, 0.9],
        "Minimum IoU with an object of the detection that GossipNet is trained to keep, the one with the highest new "
        "score; the loss is the mean over the values. The paper has 0.5 alone, as in AP50; with several, as in COCO's "
        "AP, the best localised detection is kept.",
        range=SHARE_ABOVE_ZERO,
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.GOSSIP_NET.POSITIVE_WEIGHT",
        0.1,
        "Weight in the loss of GossipNet of all detections to keep together; that of all others is 1 minus it. A "
        "larger weight raises all new scores.",
        range=Range(low=0, high=1, low_open=True, high_open=True),
    ),
    Key("MODEL.GOSSIP_NET.LOSS_WEIGHT", 1.0, "Weight of the loss of GossipNet.", range=NOT_NEGATIVE),
)
