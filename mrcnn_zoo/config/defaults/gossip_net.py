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
        "Blocks of GossipNet; in each the detections exchange messages with those that they overlap.",
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.GOSSIP_NET.DIM", 128, "Features per detection in GossipNet.", range=AT_LEAST_ONE),
    Key(
        "MODEL.GOSSIP_NET.REDUCED_DIM",
        32,
        "Features per detection and per pair of detections inside of a block of GossipNet.",
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
        "Detections of different classes exchange messages, too, as in the paper. There are several times fewer pairs "
        "without, and so less time and memory.",
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
        "Detections to which GossipNet gives a lower score, in [0, 1], are dropped.",
        range=SHARE,
    ),
    Key(
        "MODEL.GOSSIP_NET.MATCH_IOUS",
        [0.5, 0.6, 0.7, 0.8, 0.9],
        "IoU with an object of the detection that GossipNet learns to keep, which is the one with the highest new "
        "score; the loss is the mean over all of them. The paper has 0.5 alone, for AP50; more of them, as in COCO's "
        "AP, teach it to keep the best localised detection.",
        range=SHARE_ABOVE_ZERO,
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.GOSSIP_NET.POSITIVE_WEIGHT",
        0.1,
        "Share of the detections to keep in the loss of GossipNet; the others have the rest to 1. The larger, the "
        "higher are all new scores.",
        range=Range(low=0, high=1, low_open=True, high_open=True),
    ),
    Key("MODEL.GOSSIP_NET.LOSS_WEIGHT", 1.0, "Weight of the loss of GossipNet.", range=NOT_NEGATIVE),
)
