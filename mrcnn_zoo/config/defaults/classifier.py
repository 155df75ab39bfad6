"""Defaults of the classifier that pretrains a backbone."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_NEGATIVE, SHARE_BELOW_ONE, Key

DETECTRON2_KEYS: tuple[Key, ...] = ()

NEW_KEYS = (
    Key(
        "MODEL.CLASSIFIER.NUM_CLASSES",
        80,
        'Number of object classes; the class "no object" is added and not counted.',
        range=AT_LEAST_ONE,
        counts_classes_of=("Classifier",),
    ),
    Key(
        "MODEL.CLASSIFIER.IN_FEATURES",
        [],
        "Backbone outputs that are averaged over the image and concatenated, e.g. [res5] or [p2, p3, p4, p5]; empty for"
        " all, so that every level of a pyramid is trained.",
        element_types=(str,),
    ),
    Key(
        "MODEL.CLASSIFIER.NUM_FC",
        1,
        "Number of dense layers with a ReLU between the averaged features and the softmax layer.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.CLASSIFIER.FC_DIM",
        256,
        "Outputs of each dense layer of the classifier.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.CLASSIFIER.DROPOUT",
        0.0,
        "Share of the outputs of each dense layer of the classifier that training sets to 0, in [0, 1).",
        range=SHARE_BELOW_ONE,
    ),
)
