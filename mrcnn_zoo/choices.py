"""Values of options and arguments, in one module without further imports.

The help of a command names them, and importing the modules that use them, hence torch, takes seconds. A parser takes
such values from here; what a command does is imported where it is done, after its arguments are read.

Names of registered components and keys of tables are repeated here; tests/cli/test_main.py compares both.
"""

# --- data -------------------------------------------------------------------------------------------------------------

# Formats that are read and written: the names in `registries.ANNOTATION_FORMATS`, whose modules need not be imported.
ANNOTATION_FORMAT_NAMES = (
    *("cityscapes", "coco", "cvat", "geojson", "label_studio", "labelme", "labels", "masks", "rle_csv", "via"),
    *("voc", "yolo"),
)
CLASSES_EXAMPLE = "{car: [car, van], ignore: [blurry]}"  # of a mapping of classes
TILE_SIZE = 1024  # pixels, both sides
TILE_OVERLAP = 128  # pixels
MIN_VISIBLE = 0.3  # share of an object's area in a tile from which it is kept
PROPOSAL_FORMATS = (".npz", ".pkl")  # numpy arrays, Detectron2's pickle

# --- prediction -------------------------------------------------------------------------------------------------------

BEST_THRESHOLD = "best"  # the score of highest F1 of each class
THRESHOLD_SUFFIX = ".json"  # of a file with a score per class
DEFAULT_THRESHOLD = 0.5  # also of classes without a best one
MIN_TILE = 32  # pixels

# Masks, boxes and labels drawn; objects in colour, all else grey.
OBJECTS, SPLASH = PICTURE_STYLES = ("objects", "splash")

# --- models -----------------------------------------------------------------------------------------------------------

ONNX, PT2 = PROGRAM_FORMATS = ("onnx", "pt2")  # of exported detectors
OURS, DETECTRON2, TORCHVISION = CHECKPOINT_KINDS = ("ours", "detectron2", "torchvision")  # readers of a checkpoint

# --- pictures and reports ---------------------------------------------------------------------------------------------

ANCHORS, LABELS, ROIS, MASK_TARGETS = TRAINING_PICTURES = ("anchors", "labels", "rois", "mask-targets")
SIZES, SCORES = "sizes", "scores"
REPORT_FORMATS = ("markdown", "csv", "latex", "html")  # of a sweep
SHOWN = (OBJECTS, *TRAINING_PICTURES, SIZES, SCORES)  # by visualize-data
