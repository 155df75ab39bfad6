"""What dev/train_components.py trains: for each component the keys that put it into the small Mask R-CNN of the quickstart.

`{folder}` is the output folder, for runs that read what another one wrote.
"""

RES4 = "MODEL.RPN.IN_FEATURES ['res4'] MODEL.ROI_HEADS.IN_FEATURES ['res4']"
# One level of stride 16 sees digits of 20 to 56 pixels with all anchors.
ONE_LEVEL = "MODEL.ANCHOR_GENERATOR.SIZES [[20,28,40,56]] MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS [[0.7,1.0,1.4]]"
NARROW_BOTTLENECK = (
    "MODEL.RESNETS.DEPTH 50 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.RESNETS.WIDTH_PER_GROUP 16 "
    "MODEL.RESNETS.STRIDE_IN_1X1 False"
)
P2_TO_P4 = "MODEL.RPN.IN_FEATURES ['p2','p3'] MODEL.ROI_HEADS.IN_FEATURES ['p2','p3']"
NO_MASK = "MODEL.MASK_ON False"

COMPONENTS = {"baseline": ""}
COMPONENTS_ON_FILES: dict[str, str] = {}
