"""Components that dev/train_components.py trains: for each, the overrides of the quickstart's small Mask R-CNN.

`{folder}` is the output folder, for components that read the output of another run.
"""

# Digits are 20 to 56 pixels wide; a single level has all anchor sizes.
ONE_LEVEL = "MODEL.ANCHOR_GENERATOR.SIZES [[20,28,40,56]]"
TIMM = "MODEL.TIMM.OUT_NORM LN SOLVER.BASE_LR 0.0005"


def _single(map_name: str) -> str:
    return f"{ONE_LEVEL} MODEL.RPN.IN_FEATURES ['{map_name}'] MODEL.ROI_HEADS.IN_FEATURES ['{map_name}']"


def _pooling(name: str) -> str:
    return f"MODEL.ROI_BOX_HEAD.POOLER_TYPE {name} MODEL.ROI_MASK_HEAD.POOLER_TYPE {name}"


def _norm(name: str) -> str:
    return (
        f"MODEL.RESNETS.NORM {name} MODEL.FPN.NORM {name} MODEL.ROI_MASK_HEAD.NORM {name} "
        f"MODEL.ROI_BOX_HEAD.NORM {name} MODEL.ROI_BOX_HEAD.NUM_CONV 1"
    )


# From scratch, deep networks and those with a single level of stride 16 converge slowly: they get more iterations.
LONGER = "SOLVER.MAX_ITER 1000 "
BOTTLENECKS = (
    f"{LONGER}MODEL.RESNETS.DEPTH 50 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.RESNETS.WIDTH_PER_GROUP 16 "
    "MODEL.RESNETS.STRIDE_IN_1X1 False"
)
RESNEXT = BOTTLENECKS.replace("WIDTH_PER_GROUP 16", "WIDTH_PER_GROUP 4 MODEL.RESNETS.NUM_GROUPS 8")
BARE_RESNET = f"{BOTTLENECKS} MODEL.BACKBONE.NAME build_resnet_backbone"
DEFORMABLE = f"{BOTTLENECKS.removeprefix(LONGER)} MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True]"
POOLINGS = ("ROIPool", "ROIAlign", "ROIAlignV2Max", "ROIWarp", "ROIWarpRounded", "CropAndResize", "ROIAlignLastPixel")
CASCADE = "MODEL.ROI_HEADS.NAME CascadeROIHeads MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True"
VGG = "MODEL.VGG.DEPTH 11 MODEL.VGG.CONV1_OUT_CHANNELS 16 MODEL.VGG.NORM BN"
RETINANET = (
    "SOLVER.MAX_ITER 1500 MODEL.META_ARCHITECTURE RetinaNet MODEL.MASK_ON False "
    "MODEL.BACKBONE.NAME build_retinanet_resnet_fpn_backbone "
    "MODEL.FPN.IN_FEATURES ['res3','res4'] MODEL.RETINANET.IN_FEATURES ['p3','p4'] MODEL.RETINANET.NUM_CLASSES 10 "
    "MODEL.ANCHOR_GENERATOR.SIZES [[20,25,32],[40,50,64]] MODEL.RETINANET.NUM_CONVS 2"
)
KEYPOINTS = (
    "DATASETS.TRAIN ['shapes_train'] DATASETS.TEST ['shapes_val'] MODEL.ROI_HEADS.NUM_CLASSES 3 MODEL.KEYPOINT_ON True "
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 5 MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS [64,64,64,64] "
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO 1 TEST.KEYPOINT_OKS_SIGMAS [0.05,0.05,0.05,0.05,0.05]"
)

COMPONENTS = {
    "baseline": "",  # ResNet-18-FPN, RPN, ROIAlignV2, FCN masks
    # --- backbones
    "ResNet-50 (bottlenecks), FPN": BOTTLENECKS,
    "ResNet-18 C4, shared res5": (
        f"MODEL.BACKBONE.NAME build_resnet_backbone {_single('res4')} MODEL.RESNETS.OUT_FEATURES ['res4'] "
        "MODEL.ROI_HEADS.NAME Res5ROIHeads "
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 14 MODEL.ROI_MASK_HEAD.NUM_CONV 0"
    ),
    "ResNet-50 DC5": (
        f"{BARE_RESNET} {_single('res5')} MODEL.RESNETS.OUT_FEATURES ['res5'] MODEL.RESNETS.RES5_DILATION 2"
    ),
    "ResNeXt-50 8x4d, FPN": RESNEXT,
    "FPN with average fusion": "MODEL.FPN.FUSE_TYPE avg",
    "FPN with P6/P7": "MODEL.FPN.TOP_BLOCK p6p7",
    "deformable convolution v1": DEFORMABLE,
    "deformable convolution v2": f"{DEFORMABLE} MODEL.RESNETS.DEFORM_MODULATED True",
    "norm GN": _norm("GN"),
    "norm LN": _norm("LN"),
    "norm SyncBN": _norm("SyncBN"),
    "VGG-11 conv5, fc6/fc7 with dropout": (
        f"MODEL.BACKBONE.NAME build_vgg_backbone {VGG} {_single('conv5')} MODEL.ROI_BOX_HEAD.DROPOUT 0.5"
    ),
    "VGG-11 FPN": (
        f"MODEL.BACKBONE.NAME build_vgg_fpn_backbone {VGG} MODEL.VGG.OUT_FEATURES ['conv3','conv4','conv5'] "
        "MODEL.FPN.IN_FEATURES ['conv3','conv4','conv5']"
    ),
    "plain CNN of the digits example": (
        f"MODEL.BACKBONE.NAME build_plain_cnn_backbone MODEL.PLAIN_CNN.OUT_FEATURES ['conv4'] {_single('conv4')}"
    ),
    "plain CNN, FPN": (
        "MODEL.BACKBONE.NAME build_plain_cnn_fpn_backbone MODEL.PLAIN_CNN.OUT_FEATURES ['conv3','conv4'] "
        "MODEL.FPN.IN_FEATURES ['conv3','conv4']"
    ),
    "timm ConvNeXt (atto), FPN": (
        f"MODEL.BACKBONE.NAME build_timm_fpn_backbone MODEL.TIMM.NAME convnext_atto {TIMM} "
        "MODEL.FPN.IN_FEATURES ['c2','c3','c4']"
    ),
    "timm EfficientNet (lite0), FPN": (
        "MODEL.BACKBONE.NAME build_timm_fpn_backbone MODEL.TIMM.NAME efficientnet_lite0 "
        "MODEL.FPN.IN_FEATURES ['c2','c3','c4']"
    ),
    "timm Swin (tiny), FPN": (
        "MODEL.BACKBONE.NAME build_timm_fpn_backbone MODEL.TIMM.NAME swin_tiny_patch4_window7_224 "
        f"{TIMM} MODEL.FPN.IN_FEATURES ['c2','c3','c4']"
    ),
    "timm ViT (test size), simple pyramid": (
        "MODEL.BACKBONE.NAME build_timm_simple_fpn_backbone MODEL.TIMM.NAME test_vit MODEL.FPN.IN_FEATURES ['c4'] "
        "MODEL.FPN.NORM LN SOLVER.BASE_LR 0.0005"
    ),
    # --- anchors, RPN and proposals
    "RPN with three convolutions": "MODEL.RPN.CONV_DIMS [-1,-1,-1]",
    "RPN by 2-class softmax, border anchors ignored": "MODEL.RPN.HEAD_NAME SoftmaxRPNHead MODEL.RPN.BOUNDARY_THRESH 0",
    "RPN by focal loss, GIoU, no low-quality matches": (
        "MODEL.RPN.CLS_LOSS_TYPE focal MODEL.RPN.BBOX_REG_LOSS_TYPE giou MODEL.RPN.ALLOW_LOW_QUALITY_MATCHES False"
    ),
    "anchors with offset 0.5, rounded": (
        "MODEL.ANCHOR_GENERATOR.NAME RoundedAnchorGenerator MODEL.ANCHOR_GENERATOR.OFFSET 0.5"
    ),
    "proposals: ground-truth oracle": (
        "MODEL.PROPOSAL_GENERATOR.NAME GroundTruthProposals MODEL.PROPOSAL_GENERATOR.JITTER 0.1"
    ),
    "proposals: sliding window": "MODEL.PROPOSAL_GENERATOR.NAME SlidingWindow MODEL.SLIDING_WINDOW.SIZES [24,32,48]",
    "proposals: SeparateRPN": "MODEL.PROPOSAL_GENERATOR.NAME SeparateRPN",
    "proposals: selective search": (
        "MODEL.PROPOSAL_GENERATOR.NAME SelectiveSearch MODEL.SELECTIVE_SEARCH.MIN_REGION_AREA 30 "
        "MODEL.SELECTIVE_SEARCH.BASE_K 50 MODEL.SELECTIVE_SEARCH.INCREMENT_K 50 MODEL.SELECTIVE_SEARCH.MAX_BOXES 300"
    ),
    "proposals: EdgeBoxes": (
        "MODEL.PROPOSAL_GENERATOR.NAME EdgeBoxes MODEL.EDGE_BOXES.LONGEST_SIDE [256,256] MODEL.EDGE_BOXES.MAX_BOXES 300"
    ),
    "proposals: MultiBox, alone": (
        "MODEL.META_ARCHITECTURE ProposalNetwork MODEL.MASK_ON False MODEL.PROPOSAL_GENERATOR.NAME MultiBox "
        "MODEL.ANCHOR_GENERATOR.OFFSET 0.5 MODEL.MULTIBOX.IN_FEATURES ['p3','p4'] "
        "MODEL.MULTIBOX.ALPHA 1000.0 MODEL.MULTIBOX.INITIAL_CONFIDENCE 0.002"
    ),
    "ProposalNetwork": "MODEL.META_ARCHITECTURE ProposalNetwork MODEL.MASK_ON False",
    "Classifier on crops": (
        "MODEL.META_ARCHITECTURE Classifier MODEL.MASK_ON False MODEL.CLASSIFIER.NUM_CLASSES 10 "
        "DATASETS.DEFINITIONS {'a':{'FORMAT':'object_crops','DATASET':'digits_train'},"
        "'b':{'FORMAT':'object_crops','DATASET':'digits_val'}} DATASETS.TRAIN ['a'] DATASETS.TEST ['b'] "
        "SOLVER.IMS_PER_BATCH 32 INPUT.MIN_SIZE_TRAIN [0] INPUT.MIN_SIZE_TEST 0 "
        "DATALOADER.SAMPLER_TRAIN ClassBalancedTrainingSampler"
    ),
    # --- pooling
    **{
        f"pooling {name}": _pooling(name)
        for name in (
            "ROIPool",
            "ROIAlign",
            "ROIAlignV2Max",
            "ROIWarp",
            "ROIWarpRounded",
            "CropAndResize",
            "ROIAlignLastPixel",
        )
    },
    # --- heads
    "box head of 2 conv and 1 fc": (
        "MODEL.ROI_BOX_HEAD.NUM_CONV 2 MODEL.ROI_BOX_HEAD.NUM_FC 1 MODEL.ROI_BOX_HEAD.CONV_DIM 64"
    ),
    "class-agnostic boxes": "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True",
    "box loss smooth L1": "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 1.0",
    **{
        f"box loss {name}": f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE {name} MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT 5.0"
        for name in ("giou", "diou", "ciou")
    },
    "classification by sigmoid": "MODEL.ROI_BOX_HEAD.CLS_LOSS_TYPE sigmoid",
    "classification by focal loss": "MODEL.ROI_BOX_HEAD.CLS_LOSS_TYPE focal MODEL.ROI_BOX_HEAD.CLS_LOSS_WEIGHT 4",
    "classification by federated loss": (
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE True MODEL.ROI_BOX_HEAD.USE_FED_LOSS True "
        "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES 5"
    ),
    "heads trained on predicted boxes": "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES True",
    "masks: bilinear up-sampling": "MODEL.ROI_MASK_HEAD.UPSAMPLE bilinear",
    "masks: resolution 56": "MODEL.ROI_MASK_HEAD.NUM_UPSAMPLE 2",
    "masks: resolution 14": "MODEL.ROI_MASK_HEAD.NUM_UPSAMPLE 0",
    "masks: MLP": (
        "MODEL.ROI_MASK_HEAD.NAME MaskRCNNMLPHead MODEL.ROI_MASK_HEAD.FC_DIM 256 "
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 7 MODEL.ROI_MASK_HEAD.NUM_UPSAMPLE 2"
    ),
    "masks: PointRend": (
        "MODEL.ROI_MASK_HEAD.NAME PointRendMaskHead MODEL.ROI_MASK_HEAD.POOLER_TYPE '' "
        "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON True MODEL.ROI_MASK_HEAD.FC_DIM 256 MODEL.POINT_HEAD.FC_DIM 64 "
        "MODEL.POINT_HEAD.SUBDIVISION_STEPS 3 MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS 196"
    ),
    "masks: softmax over classes": "SOLVER.MAX_ITER 1500 MODEL.ROI_MASK_HEAD.LOSS softmax",
    "masks: class-agnostic": "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True",
    "masks: dice loss": "MODEL.ROI_MASK_HEAD.LOSS dice",
    "masks: scored by their IoU": (
        "MODEL.ROI_HEADS.BRANCHES ['MaskIoUHead'] MODEL.ROI_MASKIOU_HEAD.CONV_DIM 64 MODEL.ROI_MASKIOU_HEAD.FC_DIM 128"
    ),
    "cascade": CASCADE,
    # --- detectors
    "Faster R-CNN": "MODEL.MASK_ON False",
    "RetinaNet": RETINANET,
    "Keypoint R-CNN, on shapes": KEYPOINTS,
    "conventions of MMDetection": (
        "MODEL.RPN.RANK_BY probability MODEL.RPN.BOX_CODER DeltaXYWHBBoxCoder "
        "MODEL.ROI_BOX_HEAD.BOX_CODER DeltaXYWHBBoxCoder"
    ),
    "conventions of matterport's Mask R-CNN": (
        "MODEL.RESNETS.STEM_POOL following MODEL.RPN.ACROSS_LEVELS True MODEL.RPN.BOX_CODER LastPixelBoxCoder "
        "MODEL.ROI_BOX_HEAD.BOX_CODER LastPixelBoxCoder MODEL.RPN.BBOX_REG_WEIGHTS [10.0,10.0,5.0,5.0] "
        f"MODEL.ROI_HEADS.CANONICAL_BOX_SIDE 158.392 {_pooling('CropAndResize')}"
    ),
    "images of one channel": "INPUT.FORMAT L MODEL.PIXEL_MEAN [114.0] MODEL.PIXEL_STD [57.0]",
}
# Runs that read the output of others: the weights of the baseline, the proposals of the ProposalNetwork.
BASELINE = "--eval-only MODEL.WEIGHTS {folder}/baseline/model_final.pth MODEL.ROI_HEADS.SUPPRESSION"
COMPONENTS_ON_FILES = {
    "suppression: class-agnostic": f"{BASELINE} greedy_class_agnostic",
    "suppression: Soft-NMS, linear": f"{BASELINE} soft_linear",
    "suppression: Soft-NMS, Gaussian": f"{BASELINE} soft_gaussian",
    "suppression: GossipNet": (
        "MODEL.WEIGHTS {folder}/baseline/model_final.pth MODEL.ROI_HEADS.SUPPRESSION GossipNet "
        "SOLVER.TRAIN ['suppression'] SOLVER.BASE_LR 0.002 MODEL.GOSSIP_NET.NUM_BLOCKS 4 MODEL.GOSSIP_NET.DIM 64"
    ),
    "Fast R-CNN on precomputed proposals": (
        "MODEL.LOAD_PROPOSALS True MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals "
        "DATASETS.PROPOSAL_FILES_TRAIN ['{folder}/digits_train_proposals.npz'] "
        "DATASETS.PROPOSAL_FILES_TEST ['{folder}/digits_val_proposals.npz']"
    ),
}
