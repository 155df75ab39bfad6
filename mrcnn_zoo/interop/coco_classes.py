"""COCO's class names and category ids.

Published detectors of several projects are trained on COCO, and their files hold no class names:
the number of classes identifies them.
"""

UNUSED_ID = "N/A"

# By category id, from 1 on; some ids are not used. One group per supercategory.
COCO_CLASSES_BY_ID = (
    "person",
    # vehicles
    *("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    # outdoor
    *("traffic light", "fire hydrant", UNUSED_ID, "stop sign", "parking meter", "bench"),
    # animals
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    # accessories
    *(UNUSED_ID, "backpack", "umbrella", UNUSED_ID, UNUSED_ID, "handbag", "tie", "suitcase"),
    # sports
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat"),
    *("baseball glove", "skateboard", "surfboard", "tennis racket"),
    # kitchen
    *("bottle", UNUSED_ID, "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    # food
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    # furniture
    *("chair", "couch", "potted plant", "bed", UNUSED_ID, "dining table", UNUSED_ID, UNUSED_ID, "toilet", UNUSED_ID),
    # electronics
    *("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    # appliances
    *("microwave", "oven", "toaster", "sink", "refrigerator", UNUSED_ID),
    # indoor
    *("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)

COCO_CLASSES = tuple(name for name in COCO_CLASSES_BY_ID if name != UNUSED_ID)  # 80, by class index
COCO_CATEGORY_IDS = tuple(  # 80, of COCO_CLASSES
    number for number, name in enumerate(COCO_CLASSES_BY_ID, start=1) if name != UNUSED_ID
)
