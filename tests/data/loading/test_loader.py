"""Loaders: order, resumption, processes, and user errors in worker processes."""

import multiprocessing
import pickle
import subprocess
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn_zoo.data import build_eval_loader, build_train_loader, load_dataset
from mrcnn_zoo.data.loading import loader as loader_module
from mrcnn_zoo.data.loading.packing import Failure, PackedForGPU, PackedRecords, pack, unpack
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import Sample


@pytest.fixture
def dataset(cfg, write_coco, annotation) -> Dataset:
    """Seven small images with one object each."""
    annotations = [annotation(number, image_id=number) for number in range(1, 8)]
    return load_dataset(cfg, str(write_coco(annotations, num_images=7).parent))


def _take(loader, count: int) -> list[list[Sample]]:
    return list(islice(loader, count))


def _flat(lists) -> list:
    return list(chain.from_iterable(lists))


def _ids(batches: list[list[Sample]]) -> list[list[int | str]]:
    return [[sample.image_id for sample in batch] for batch in batches]


def _assert_equal(ours: list[list[Sample]], theirs: list[list[Sample]]) -> None:
    assert _ids(ours) == _ids(theirs)
    for a, b in zip(_flat(ours), _flat(theirs), strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.targets.boxes, b.targets.boxes)
        assert torch.equal(a.targets.masks.bitmaps(), b.targets.masks.bitmaps())


@pytest.fixture
def random_cfg(cfg):
    """A training config with several random augmentations."""
    cfg.INPUT.MIN_SIZE_TRAIN = [30, 40, 50]
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.AUGMENTATIONS = ["RandomBrightness"]
    return cfg


def test_same_seed_gives_the_same_samples_and_another_does_not(random_cfg, dataset: Dataset) -> None:
    first, second, third = (_take(build_train_loader(random_cfg, [dataset], seed=s), 6) for s in (5, 5, 6))
    _assert_equal(first, second)
    assert _ids(first) != _ids(third)


def test_resumed_loader_continues_exactly(random_cfg, dataset: Dataset) -> None:
    whole = _take(build_train_loader(random_cfg, [dataset], seed=5), 9)
    resumed = _take(build_train_loader(random_cfg, [dataset], seed=5, start_batch=6), 3)
    _assert_equal(resumed, whole[6:])


def test_resuming_reads_no_earlier_image(cfg, dataset: Dataset) -> None:
    reads: list[int] = []

    class CountingImage:
        name = "counted"

        def read(self) -> np.ndarray:
            reads.append(1)
            return np.zeros((40, 60, 3), np.uint8)

    counted = replace(dataset, records=tuple(replace(record, source=CountingImage()) for record in dataset.records))
    _take(build_train_loader(cfg, [counted], start_batch=1000), 1)
    assert len(reads) == 2


def test_epoch_has_every_image_once(cfg, dataset: Dataset) -> None:
    cfg.SOLVER.IMS_PER_BATCH = 1
    ids = _flat(_ids(_take(build_train_loader(cfg, [dataset]), 14)))
    assert sorted(ids[:7]) == sorted(ids[7:]) == list(range(1, 8))
    assert ids[:7] != ids[7:]


def test_augmentation_differs_between_epochs(cfg, dataset: Dataset) -> None:
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = True, [0.5, 0.5]
    alone = replace(dataset, records=dataset.records[:1])
    images = [sample.image for sample in _flat(_take(build_train_loader(cfg, [alone]), 3))]
    assert len({tuple(image.shape) for image in images}) > 3


def test_two_ranks_equal_one(random_cfg, dataset: Dataset) -> None:
    random_cfg.SOLVER.IMS_PER_BATCH = 4
    alone = _take(build_train_loader(random_cfg, [dataset], seed=1), 3)
    ranks = [_take(build_train_loader(random_cfg, [dataset], seed=1, rank=r, world_size=2), 3) for r in (0, 1)]
    _assert_equal([left + right for left, right in zip(*ranks, strict=True)], alone)


@pytest.mark.parametrize("size", [0, 200])  # batches of 15 KB, in the pipe, and of 360 KB, in a file of their own
def test_worker_processes_give_the_same_samples(random_cfg, dataset: Dataset, size: int) -> None:
    random_cfg.INPUT.MIN_SIZE_TRAIN = [size]
    expected = _take(build_train_loader(random_cfg, [dataset], seed=3), 5)
    random_cfg.DATALOADER.NUM_WORKERS = 2
    _assert_equal(_take(build_train_loader(random_cfg, [dataset], seed=3), 5), expected)


def test_eval_loader_with_workers_keeps_the_order(cfg, dataset: Dataset) -> None:
    cfg.TEST.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS = 3, 2
    loader = build_eval_loader(cfg, dataset)
    assert len(loader) == 3
    assert _ids(list(loader)) == [[1, 2, 3], [4, 5, 6], [7]]
    assert _ids(list(loader)) == [[1, 2, 3], [4, 5, 6], [7]]  # a second pass


def test_eval_loader_keeps_images_without_objects_and_has_no_targets(cfg, write_coco, annotation) -> None:
    dataset = load_dataset(cfg, str(write_coco([annotation()], num_images=3).parent))
    samples = _flat(build_eval_loader(cfg, dataset))
    assert [sample.image_id for sample in samples] == [1, 2, 3]
    assert [sample.targets for sample in samples] == [None] * 3


def test_eval_loader_has_targets_on_request(cfg, dataset: Dataset) -> None:
    cfg.INPUT.MIN_SIZE_TEST = 80
    sample = next(iter(build_eval_loader(cfg, dataset, with_targets=True)))[0]
    assert sample.targets.boxes.tolist() == [[20, 20, 40, 40]]
    assert sample.targets.image_size == (80, 120)


def test_ranks_partition_the_dataset(cfg, dataset: Dataset) -> None:
    ids = [_flat(_ids(list(build_eval_loader(cfg, dataset, rank=r, world_size=2)))) for r in (0, 1)]
    assert ids == [[1, 2, 3], [4, 5, 6, 7]]


def test_number_of_images_is_limited(cfg, dataset: Dataset) -> None:
    cfg.TEST.NUM_IMAGES = 5
    assert _flat(_ids(list(build_eval_loader(cfg, dataset, batch_size=2, start=1)))) == [2, 3, 4, 5]


def test_rank_without_images_has_no_batches(cfg, dataset: Dataset) -> None:
    cfg.TEST.NUM_IMAGES, cfg.DATALOADER.NUM_WORKERS = 1, 2
    assert list(build_eval_loader(cfg, dataset, rank=0, world_size=2)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_truncated_image_in_a_worker_is_one_user_error(cfg, dataset: Dataset, num_workers: int) -> None:
    cfg.DATALOADER.NUM_WORKERS = num_workers
    path = Path(dataset.records[3].source.name)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError) as caught:
        list(build_eval_loader(cfg, dataset))
    assert str(caught.value).startswith(str(path))
    assert "Traceback" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_deleted_image_is_named(cfg, dataset: Dataset) -> None:
    Path(dataset.records[0].source.name).unlink()
    with pytest.raises(UserError, match=r"001\.png: the image file is missing"):
        list(build_eval_loader(cfg, dataset))


def test_images_without_objects_are_not_trained_on(cfg, write_coco, annotation) -> None:
    annotations = [annotation(1, image_id=2), annotation(2, image_id=3, iscrowd=1)]
    dataset = load_dataset(cfg, str(write_coco(annotations, num_images=4).parent))
    assert build_train_loader(cfg, [dataset]).num_images == 1
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert build_train_loader(cfg, [dataset]).num_images == 4


def test_images_with_few_keypoints_are_not_trained_on(cfg, write_coco, annotation) -> None:
    categories = [{"id": 7, "name": "person", "keypoints": ["a", "b"]}]
    points = [[1, 1, 2, 2, 2, 1], [1, 1, 2, 0, 0, 0], None]
    annotations = [annotation(n, image_id=n, keypoints=values) for n, values in enumerate(points, 1)]
    cfg.MODEL.KEYPOINT_ON = True
    dataset = load_dataset(cfg, str(write_coco(annotations, num_images=3, categories=categories).parent))
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 2
    loader = build_train_loader(cfg, [dataset])
    assert loader.num_images == 1
    assert next(iter(loader))[0].targets.keypoints.shape == (1, 2, 3)
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 5
    with pytest.raises(UserError, match=r"none of its 3 images has 5 visible keypoints.*MIN_KEYPOINTS_PER_IMAGE"):
        build_train_loader(cfg, [dataset])


def _without_masks(dataset: Dataset, *rows: int) -> Dataset:
    records = tuple(
        replace(record, instances=tuple(replace(item, segmentation=None) for item in record.instances))
        if row in rows
        else record
        for row, record in enumerate(dataset.records)
    )
    return replace(dataset, records=records)


def test_mask_model_refuses_data_without_masks(cfg, dataset: Dataset) -> None:
    boxes_only = _without_masks(dataset, *range(7))
    with pytest.raises(UserError, match=r"boxes but no masks.*Set MODEL.MASK_ON to False"):
        build_train_loader(cfg, [boxes_only])
    cfg.MODEL.MASK_ON = False
    assert next(iter(build_train_loader(cfg, [boxes_only])))[0].targets.masks is None


def test_objects_without_masks_are_logged(cfg, dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    build_train_loader(cfg, [_without_masks(dataset, 2, 4)])
    assert "2 of 7 objects have no mask and are not trained on (first: annotation 3)" in caplog.text


def test_several_datasets_are_loaded_together(cfg, dataset: Dataset) -> None:
    assert build_train_loader(cfg, [dataset, dataset]).num_images == 14


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.IMS_PER_BATCH", 3, "IMS_PER_BATCH = 3 must be a multiple of the 2"),
        ("SOLVER.IMS_PER_BATCH", 0, "IMS_PER_BATCH = 0"),
        ("DATALOADER.SAMPLER_TRAIN", "TrainSampler", "DATALOADER.SAMPLER_TRAIN = 'TrainSampler'.*TrainingSampler"),
        ("MODEL.KEYPOINT_ON", True, "has no keypoints"),
    ],
)
def test_invalid_setting_is_named(cfg, dataset: Dataset, key: str, value: object, message: str) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        build_train_loader(cfg, [dataset], world_size=2)


def test_empty_datasets_are_refused(cfg, dataset: Dataset) -> None:
    empty = replace(dataset, records=())
    with pytest.raises(UserError, match="no images to evaluate on"):
        build_eval_loader(cfg, empty)
    with pytest.raises(UserError, match="no images to train on"):
        build_train_loader(cfg, [empty])
    nothing = replace(dataset, records=tuple(replace(record, instances=()) for record in dataset.records))
    with pytest.raises(UserError, match="none of its 7 images has an object"):
        build_train_loader(cfg, [nothing])


def test_packed_records_equal_the_records(dataset: Dataset) -> None:
    packed = PackedRecords(dataset.records)
    assert len(packed) == 7
    assert [packed[row].image_id for row in range(7)] == list(range(1, 8))
    assert packed[6].instances[0].box == dataset.records[6].instances[0].box
    assert len(PackedRecords([])) == 0


def test_packed_samples_equal_the_samples(cfg, dataset: Dataset) -> None:
    batch = next(iter(build_train_loader(cfg, [dataset])))
    _assert_equal([unpack(pack(batch))], [batch])


@pytest.mark.parametrize("is_refused", [False, True])
def test_systems_without_anonymous_files_send_samples_by_value(
    cfg, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    def refuse(_: str) -> int:
        raise PermissionError

    cfg.INPUT.MIN_SIZE_TRAIN = [200]
    batch = next(iter(build_train_loader(cfg, [dataset])))
    monkeypatch.delattr("os.memfd_create", raising=False)
    if is_refused:
        monkeypatch.setattr("os.memfd_create", refuse, raising=False)
    received = unpack(pickle.loads(pickle.dumps(pack(batch))))
    _assert_equal([received], [batch])
    received[0].image.zero_()  # not read-only, as bytes would be


def test_images_for_a_gpu_are_pinned_in_the_thread_that_unpacks_them(
    cfg, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda image: image + 1)  # without a GPU it cannot be called
    (batch,) = _take(build_train_loader(cfg, [dataset]), 1)
    pinned = PackedForGPU.pack(batch).pin_memory()
    for sample, original in zip(pinned, batch, strict=True):
        assert torch.equal(sample.image, original.image + 1)
        assert torch.equal(sample.targets.boxes, original.targets.boxes)
    assert PackedForGPU.pack(Failure("no such image")).pin_memory() == Failure("no such image")


def test_loader_for_a_gpu_uses_pinned_memory(cfg, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DATALOADER.NUM_WORKERS = 1
    settings = {}
    monkeypatch.setattr(loader_module, "DataLoader", lambda *_, **keywords: settings.update(keywords) or iter(()))
    for is_available, device, pins in ((True, "auto", True), (True, "cpu", False), (False, "cuda", False)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_available=is_available: is_available)
        cfg.MODEL.DEVICE = device
        for loader in (build_train_loader(cfg, [dataset]), build_eval_loader(cfg, dataset)):
            list(loader)
            assert settings["pin_memory"] is pins
            assert (settings["collate_fn"] is pack) is not pins


def test_real_images_pass_through_the_pipeline(cfg, shared_dir: Path) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN = [800]
    dataset = load_dataset(cfg, str(shared_dir / "data" / "coco_mini" / "train2017"))
    for sample in _flat(_take(build_train_loader(cfg, [dataset]), 2)):
        height, width = sample.image_size
        assert min(height, width) == 800 or max(height, width) == 1333
        boxes, masks = sample.targets.boxes, sample.targets.masks.bitmaps()
        for box, mask in zip(boxes, masks, strict=True):
            rows, columns = torch.where(mask)
            tight = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (tight - box).abs().max() < 8


def test_worker_processes_ignore_signals_of_others(cfg, dataset: Dataset) -> None:
    cfg.DATALOADER.NUM_WORKERS = 2
    batches = iter(build_train_loader(cfg, [dataset]))
    _take(batches, 2)  # one per worker: both have started
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    pids = [str(worker.pid) for worker in workers]
    for name in ("-INT", "-TERM"):
        subprocess.run(["kill", name, *pids], check=True)
    assert len(_take(batches, 30)) == 30
    batches.close()
    assert multiprocessing.active_children() == []
