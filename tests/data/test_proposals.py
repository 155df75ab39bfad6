"""Precomputed proposals: their files, and the proposals of samples."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import build_eval_loader, build_train_loader, load_dataset
from mrcnn_zoo.data.loading.proposals import ProposalMapper
from mrcnn_zoo.data.proposals import StoredProposals, read_proposals, write_proposals
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.transforms import AffineTransform
from mrcnn_zoo.data.transforms.crop import CropTransform
from mrcnn_zoo.data.transforms.flip import HorizontalFlip, QuarterTurn
from mrcnn_zoo.errors import UserError

BOXES = np.array([[10, 10, 30, 20], [0, 0, 60, 40], [50, 30, 60, 40]], dtype=np.float32)
LOGITS = np.array([0.5, 2.0, -1.0], dtype=np.float32)
TABLE = StoredProposals(BOXES, LOGITS)
EMPTY = StoredProposals(BOXES[:0], LOGITS[:0])


def assert_same(ours: StoredProposals, theirs: StoredProposals) -> None:
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)
    np.testing.assert_array_equal(ours.objectness, theirs.objectness)


# --- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
@pytest.mark.parametrize("ids", [(7, 12, 3), ("left", "right", "7"), ()])
def test_written_content_is_read(suffix: str, ids: tuple, tmp_path: Path) -> None:
    tables = dict(zip(ids, (TABLE, EMPTY, TABLE), strict=False))
    path = write_proposals(tmp_path / "new" / f"proposals{suffix}", tables)
    read = read_proposals(path)
    assert list(read) == [str(image_id) for image_id in ids]
    for image_id, table in tables.items():
        assert_same(read[str(image_id)], table)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write_proposals(tmp_path / "proposals.npz", {7: TABLE})
    content = path.read_bytes()
    start = content.index(b"boxes.npy") + len(b"boxes.npy")
    path.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])
    with pytest.raises(UserError, match=r"proposals\.npz cannot be read as an \.npz file"):
        read_proposals(path)


def detectron2(tmp_path: Path, **changes: object) -> Path:
    content = {"ids": [7, 12], "boxes": [BOXES, BOXES[:0]], "objectness_logits": [LOGITS, LOGITS[:0]], "bbox_mode": 0}
    path = tmp_path / "box_proposals.pkl"
    path.write_bytes(pickle.dumps({key: value for key, value in (content | changes).items() if value is not None}))
    return path


def test_detectron2_file_is_read(tmp_path: Path) -> None:
    read = read_proposals(detectron2(tmp_path))
    assert_same(read["7"], TABLE)
    assert_same(read["12"], EMPTY)


def test_detectron1_file_with_other_column_names_is_read(tmp_path: Path) -> None:
    content = {"indexes": [7], "boxes": [BOXES], "scores": [LOGITS]}
    path = tmp_path / "d1.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert_same(read_proposals(path)["7"], TABLE)


def test_boxes_as_corner_and_sides_are_converted(tmp_path: Path) -> None:
    sides = np.concatenate([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]], axis=1)
    assert_same(read_proposals(detectron2(tmp_path, boxes=[sides, sides[:0]], bbox_mode=1))["7"], TABLE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": None}, "no 'ids' among boxes"),
        ({"bbox_mode": 4}, "bbox_mode 4"),
        ({"ids": [7]}, "1 image ids, boxes of 2"),
        ({"boxes": [BOXES[:2], BOXES[:0]]}, r"image 7: boxes of shape \(2, 4\) with 3 scores"),
        ({"boxes": [BOXES[:, :3], BOXES[:0]]}, r"image 7: boxes of shape \(3, 3\)"),
    ],
)
def test_file_with_other_columns_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_proposals(detectron2(tmp_path, **changes))


class Harmful:
    def __reduce__(self) -> tuple:
        return print, ("run",)


def test_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="print"):
        read_proposals(detectron2(tmp_path, boxes=[Harmful(), Harmful()]))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = write_proposals(tmp_path / f"proposals{suffix}", {7: TABLE})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=str(path)):
        read_proposals(path)


def test_arrays_whose_counts_do_not_add_up_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "proposals.npz"
    np.savez(path, image_ids=[7], counts=[2], boxes=BOXES, objectness=LOGITS)
    with pytest.raises(UserError, match="counts add up to 2, of 3 boxes"):
        read_proposals(path)


def test_invalid_proposals_are_left_out_with_one_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = np.array([[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [9, 9, 2, 12], [1, 1, 5, 5], *BOXES], dtype=np.float64)
    logits = np.array([1.0, 1.0, 1.0, np.nan, *LOGITS])
    read = read_proposals(detectron2(tmp_path, boxes=[odd, BOXES], objectness_logits=[logits, LOGITS]))
    assert_same(read["7"], TABLE)
    assert_same(read["12"], TABLE)
    assert [line.split(": ", 1)[1] for line in caplog.messages] == [
        "proposals that are NaN, infinite or turned inside out left out: 4 (first: image 7)"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[["a", 1, 2, 3]], []]}, "image 7: boxes or scores are not numbers"),
        ({"objectness_logits": ["x", []]}, "image 7: boxes or scores are not numbers"),
        ({"boxes": [[[None, "b", 2, 3]], []], "bbox_mode": 1}, "image 7: boxes or scores are not numbers"),
        ({"ids": 7}, "ids is a int instead of a list"),
    ],
)
def test_values_that_are_not_numbers_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_proposals(detectron2(tmp_path, **changes))


def test_ids_as_numbers_and_text_are_equal(tmp_path: Path) -> None:
    assert list(read_proposals(detectron2(tmp_path, ids=[7.0, " 12"]))) == ["7", "12"]


@pytest.mark.parametrize("counts", [[-1, 4], [1.5, 1.5], [[3]]])
def test_invalid_counts_are_refused(tmp_path: Path, counts: list) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, image_ids=[7, 12], counts=counts, boxes=BOXES, objectness=LOGITS)
    with pytest.raises(UserError, match="counts must be a whole number >= 0 for each image"):
        read_proposals(path)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.npz or \.pkl"):
        read_proposals(tmp_path / "proposals.json")
    with pytest.raises(UserError, match=r"\.npz or \.pkl"):
        write_proposals(tmp_path / "proposals.json", {})


# --- transforms -------------------------------------------------------------------------------------------------------
class Nameless:
    name = "image.png"


RECORD = ImageRecord(7, Nameless(), (40, 60))  # type: ignore[arg-type]
SAME = AffineTransform.identity((40, 60))


def make(affine: AffineTransform, *, topk: int = 100, min_size: float = 0.0, table: StoredProposals = TABLE) -> tuple:
    maker = ProposalMapper(stored={(7, "image.png"): table}, topk=topk, min_size=min_size)
    proposals = maker(RECORD, affine)
    assert proposals.image_size == affine.size
    assert proposals.boxes.dtype == proposals.objectness.dtype == torch.float32
    return proposals.boxes.tolist(), proposals.objectness.tolist()


def test_proposals_are_sorted_by_objectness() -> None:
    assert make(SAME) == (BOXES[[1, 0, 2]].tolist(), [2.0, 0.5, -1.0])
    assert make(SAME, topk=2)[1] == [2.0, 0.5]


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        (AffineTransform.scale_and_shift((2.0, 3.0), (0.0, 0.0), (120, 120)), [20, 30, 60, 60]),
        (HorizontalFlip((40, 60)).affine, [30, 10, 50, 20]),
        (QuarterTurn((40, 60)).affine, [10, 30, 20, 50]),
        (CropTransform(15, 20, (25, 40)).affine, [0, 0, 10, 5]),
    ],
    ids=["resize", "flip", "turn", "crop"],
)
def test_boxes_are_mapped_like_the_pixels(affine: AffineTransform, expected: list[int]) -> None:
    boxes, logits = make(affine)
    assert boxes[logits.index(0.5)] == expected


def test_boxes_outside_the_frame_are_dropped_before_topk() -> None:
    corner = CropTransform(25, 40, (15, 20)).affine  # boxes 1 and 2 are left
    assert make(corner, topk=2) == ([[0, 0, 20, 15], [10, 5, 20, 15]], [2.0, -1.0])


def test_small_boxes_are_dropped() -> None:
    assert make(SAME, min_size=10)[1] == [2.0]  # the others are 10 high


def test_image_without_proposals() -> None:
    assert make(SAME, table=EMPTY) == ([], [])


# --- loaders ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def dataset(cfg: CfgNode, write_coco, annotation) -> Dataset:
    """Three images of 40 x 60, each with an object; the config names it for training and testing."""
    folder = str(write_coco([annotation(number, image_id=number) for number in (1, 2, 3)], num_images=3).parent)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = [folder]
    cfg.MODEL.LOAD_PROPOSALS = True
    return load_dataset(cfg, folder)


@pytest.fixture
def files(cfg: CfgNode, tmp_path: Path) -> Path:
    """Proposals for the three images, under the keys of both splits; those of image i have the logit i added."""
    tables = {number: replace(TABLE, objectness=LOGITS + number) for number in (1, 2, 3)}
    path = write_proposals(tmp_path / "proposals.npz", tables)
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = cfg.DATASETS.PROPOSAL_FILES_TEST = [str(path)]
    return path


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("with_targets", [False, True])
def test_eval_samples_have_the_proposals_of_their_image(cfg: CfgNode, dataset: Dataset, with_targets: bool) -> None:
    cfg.INPUT.MIN_SIZE_TEST = 80
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = 2
    samples = [sample for batch in build_eval_loader(cfg, dataset, with_targets=with_targets) for sample in batch]
    assert [sample.proposals.objectness.tolist() for sample in samples] == [[2.0 + i, 0.5 + i] for i in (1, 2, 3)]
    assert samples[0].proposals.boxes.tolist() == [[0, 0, 120, 80], [20, 20, 60, 40]]
    assert samples[0].proposals.image_size == samples[0].image_size


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_proposals_are_flipped_with_the_image(cfg: CfgNode, dataset: Dataset, num_workers: int) -> None:
    cfg.DATALOADER.NUM_WORKERS = num_workers
    loader = iter(build_train_loader(cfg, [dataset], seed=1))
    seen = set()
    for _ in range(6):
        for sample in next(loader):
            row = sample.proposals.objectness.tolist().index(0.5 + sample.image_id)
            left = sample.proposals.boxes[row, 0].item()
            seen.add((left, sample.targets.boxes[0, 0].item()))
    assert seen == {(10, 10), (30, 40)}  # the object is 10 wide, the proposal 20


def test_without_the_key_samples_have_no_proposals(cfg: CfgNode, dataset: Dataset) -> None:
    cfg.MODEL.LOAD_PROPOSALS = False
    assert next(iter(build_eval_loader(cfg, dataset)))[0].proposals is None


def test_image_without_entry_in_the_file_is_named(cfg: CfgNode, dataset: Dataset, files: Path) -> None:
    write_proposals(files, {1: TABLE, 3: TABLE})
    for build in (lambda: build_train_loader(cfg, [dataset]), lambda: build_eval_loader(cfg, dataset)):
        with pytest.raises(UserError, match=rf"{files} has no proposals for 1 of 3 images.*image 2 \(.*002\.png"):
            build()


@pytest.mark.usefixtures("files")
def test_images_left_out_of_training_need_no_proposals(cfg: CfgNode, dataset: Dataset, files: Path) -> None:
    write_proposals(files, {1: TABLE, 3: TABLE})
    empty = replace(dataset.records[1], instances=())
    some = replace(dataset, records=(dataset.records[0], empty, dataset.records[2]))
    assert build_train_loader(cfg, [some]).num_images == 2


def test_equal_ids_in_two_datasets_keep_their_own_proposals(
    cfg: CfgNode, dataset: Dataset, files: Path, tmp_path: Path
) -> None:
    class Other:
        name = "other.png"

        def read(self) -> np.ndarray:
            return np.zeros((40, 60, 3), np.uint8)

    other = replace(dataset, name="other", records=(replace(dataset.records[0], source=Other()),))
    path = write_proposals(tmp_path / "other.pkl", {1: StoredProposals(BOXES[:1], np.array([99.0], np.float32))})
    cfg.DATASETS.TRAIN = [dataset.name, "other"]
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = [str(files), str(path)]
    loader = iter(build_train_loader(cfg, [dataset, other], seed=0))
    best = {(s.file_name, s.proposals.objectness[0].item()) for _ in range(8) for s in next(loader) if s.image_id == 1}
    assert best == {("other.png", 99.0), (dataset.records[0].source.name, 3.0)}


def test_wrong_number_of_proposal_files_is_refused(cfg: CfgNode, dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"DATASETS\.PROPOSAL_FILES_TEST = \[\] should name one file"):
        build_eval_loader(cfg, dataset)
    with pytest.raises(UserError, match=r"DATASETS\.PROPOSAL_FILES_TRAIN"):
        build_train_loader(cfg, [dataset])


@pytest.mark.usefixtures("files")
def test_evaluated_training_set_uses_the_training_file(cfg: CfgNode, dataset: Dataset) -> None:
    cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST = [], []
    assert next(iter(build_eval_loader(cfg, dataset)))[0].proposals is not None


def test_dataset_without_file_and_missing_file_are_refused(cfg: CfgNode, dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"'other' is neither in DATASETS\.TRAIN nor"):
        build_eval_loader(cfg, replace(dataset, name="other"))
    cfg.DATASETS.PROPOSAL_FILES_TEST = ["nowhere.pkl"]
    with pytest.raises(UserError, match=r"proposal file is missing, searched .*nowhere\.pkl"):
        build_eval_loader(cfg, dataset)


@pytest.mark.usefixtures("files")
def test_topk_below_one_is_refused(cfg: CfgNode, dataset: Dataset) -> None:
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = 0
    with pytest.raises(UserError, match=r"PRECOMPUTED_PROPOSAL_TOPK_TEST = 0"):
        build_eval_loader(cfg, dataset)


def test_file_of_a_url_is_found_in_the_download_cache(
    cfg: CfgNode, dataset: Dataset, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path))
    monkeypatch.setenv("MRCNN_ZOO_OFFLINE", "1")
    cfg.DATASETS.PROPOSAL_FILES_TEST = ["detectron2://COCO-Detection/rpn/proposals.npz"]
    with pytest.raises(UserError, match=r"proposals\.npz is not in the cache, and MRCNN_ZOO_OFFLINE forbids"):
        build_eval_loader(cfg, dataset)
    cached = tmp_path / "detectron2" / "COCO-Detection" / "rpn" / "proposals.npz"
    cached.parent.mkdir(parents=True)
    files.rename(cached)
    (first, *_) = build_eval_loader(cfg, dataset)
    assert first[0].proposals is not None
