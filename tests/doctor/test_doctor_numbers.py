"""Numbers of the doctor against values by hand, brute force, and other libraries."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from torchvision.ops import box_iou

from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.doctor.anchors import MeasuredObjects, anchor_ious, objects_to_measure
from mrcnn_zoo.doctor.annotations import box_ious, duplicate_pairs
from mrcnn_zoo.doctor.checks import Check, run_checks
from mrcnn_zoo.doctor.estimate import Estimate, Step, count_saved_bytes, extrapolated
from mrcnn_zoo.doctor.examined import AnchorLevels, DoctorInput, InputScale, ModelSettings, Side, sampled_rows
from mrcnn_zoo.doctor.finding import Finding, Severity, percent
from mrcnn_zoo.doctor.hashes import cosine_hashes, hash_distances, near_pairs, oriented, similarity
from mrcnn_zoo.doctor.images import check_statistics, pixel_moments
from mrcnn_zoo.doctor.loading import build_anchor_levels
from mrcnn_zoo.doctor.masks import grid_iou
from mrcnn_zoo.doctor.pixels import ImageFacts, build_fact_reader, thumbnail_of
from mrcnn_zoo.doctor.resources import check_resources, memory_text, time_text
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import Sample
from support.small_models import TINY_YAML, config_of

SETTINGS = ModelSettings(
    needs_masks=True,
    classifies=False,
    weights="",
    pixel_mean=(100.0,),
    pixel_std=(50.0,),
    pixel_format="L",
    sixteen_bit="stretch",
    leaves_out_empty=True,
    limits={"train": (), "val": ()},
    mask_side=28,
    iterations=300,
    minutes=0.0,
    batch_size=4,
    num_workers=0,
)


class Pixels:
    """An image in memory."""

    def __init__(self, pixels: np.ndarray, name: str = "memory") -> None:
        self.pixels, self.name = pixels, name

    def read(self) -> np.ndarray:
        return self.pixels


def side_of(records: list[ImageRecord], *, names: tuple[str, ...] = ("cell",)) -> Side:
    dataset = Dataset("cells", tuple(records), names, tuple(range(1, len(names) + 1)))
    return Side("train", dataset, tuple(range(len(records))), InputScale(0, 4000))


def record_of(*items: InstanceRecord, size: tuple[int, int] = (64, 64)) -> ImageRecord:
    return ImageRecord(1, Pixels(np.zeros((*size, 3), dtype=np.uint8)), size, items)


# --- hashes -----------------------------------------------------------------------------------------------------------


def textured(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(128, 60, (16, 16)).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(noise).resize((96, 128), Image.Resampling.BICUBIC))


def test_hash_has_the_signs_of_the_lowest_frequencies_of_scipys_transform() -> None:
    image = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    lowest = dctn(image[0].astype(np.float64), type=2)[1:9, 1:9].ravel()
    bits = lowest > np.median(lowest)
    assert cosine_hashes(image).tolist() == [sum(1 << place for place in np.flatnonzero(bits).tolist())]


def test_distance_of_hashes_is_the_number_of_different_bits() -> None:
    one, other = np.array([0, 0b1011], dtype=np.uint64), np.array([2**64 - 1, 0b0001], dtype=np.uint64)
    assert hash_distances(one, other).tolist() == [[64, 1], [61, 2]]


def test_oriented_pictures_are_the_eight_symmetries_of_a_square() -> None:
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    assert len({oriented(image, number).tobytes() for number in range(8)}) == 8
    assert oriented(image, 0).tolist() == image.tolist()


def test_copies_are_near_after_compression_brightness_size_and_turns() -> None:
    pictures = [textured(seed) for seed in range(12)]
    file = io.BytesIO()
    Image.fromarray(pictures[1]).save(file, "JPEG", quality=30)
    copies = {
        1: np.asarray(Image.open(file)),
        2: (pictures[2] * 0.6 + 50).astype(np.uint8),
        3: np.asarray(Image.fromarray(pictures[3]).resize((48, 64))),
        4: np.rot90(pictures[4]),
        5: pictures[5][::-1],
    }
    pairs = near_pairs([thumbnail_of(image) for image in (*pictures, *copies.values())])
    assert {(pair.one, pair.other) for pair in pairs} == {(1, 12), (2, 13), (3, 14), (4, 15), (5, 16)}
    assert [pair.is_turned for pair in sorted(pairs, key=lambda pair: pair.one)] == [False] * 3 + [True] * 2


def spotted(seed: int, *, strength: float) -> np.ndarray:
    """Spots on a dark ground under uneven light, which is equal in all pictures."""
    rows, columns = np.mgrid[:64, :64]
    picture = 12 + 20 * np.exp(-((rows - 20) ** 2 + (columns - 40) ** 2) / 900)
    for y, x in np.random.default_rng(seed).integers(4, 60, (15, 2)):
        picture[y - 2 : y + 2, x - 2 : x + 2] += strength
    return picture.astype(np.float32)


def test_pictures_that_share_their_light_alone_are_not_near() -> None:
    one, other = (spotted(seed, strength=4.0) for seed in (0, 1))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95
    assert similarity(one, other) == 0.0  # the details differ
    assert similarity(one, one * 0.5 + 3) == pytest.approx(1.0)
    assert near_pairs([spotted(seed, strength=6.0) for seed in range(20)]) == []


def test_pictures_of_equal_details_and_other_coarse_structure_are_not_near() -> None:
    ramp = np.linspace(0, 90, 64, dtype=np.float32)[None].repeat(64, axis=0)
    grain = np.random.default_rng(0).normal(0, 10, (64, 64)).astype(np.float32)
    assert similarity(ramp + grain, ramp[:, ::-1] + grain) == 0.0
    assert similarity(ramp + grain, ramp + grain) == pytest.approx(1.0)


def test_flat_pictures_are_not_compared() -> None:
    assert near_pairs([np.full((64, 64), 7, dtype=np.float32)] * 3) == []


# --- annotations ------------------------------------------------------------------------------------------------------


def test_box_ious_equal_torchvisions() -> None:
    corners = np.random.default_rng(0).uniform(0, 50, (40, 4))
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + 1 + corners[:, 2:]], axis=1)
    others = boxes[::-1]
    expected = box_iou(torch.from_numpy(boxes), torch.from_numpy(others.copy())).diagonal()
    assert box_ious(boxes, others) == pytest.approx(expected.numpy())


def test_duplicates_are_the_pairs_of_brute_force() -> None:
    generator = np.random.default_rng(1)
    boxes = [(x, y, x + 20.0, y + 20.0) for x, y in generator.uniform(0, 3, (30, 2)).tolist()]
    items = [InstanceRecord(box, 0, annotation_id=number) for number, box in enumerate(boxes)]
    overlaps = box_iou(torch.tensor(boxes), torch.tensor(boxes)).numpy()
    expected = {(int(i), int(j)) for i, j in np.argwhere(np.triu(overlaps, 1) > 0.9)}
    found = {
        (one.annotation_id, other.annotation_id) for _, one, other in duplicate_pairs(side_of([record_of(*items)]))
    }
    assert len(expected) > 5
    assert found == expected


def test_objects_with_equal_boxes_and_other_masks_are_no_duplicates() -> None:
    upper, lower = np.triu(np.ones((64, 64))), np.tril(np.ones((64, 64)))
    items = [InstanceRecord((0, 0, 64, 64), 0, rle.encode(mask)) for mask in (upper, lower, upper)]
    side = side_of([record_of(*items)])
    assert [(one.segmentation, other.segmentation) for _, one, other in duplicate_pairs(side)] == [
        (items[0].segmentation, items[2].segmentation)
    ]


def test_crowds_are_no_objects() -> None:
    items = [InstanceRecord((0, 0, 9, 9), 0, is_crowd=is_crowd) for is_crowd in (True, False, True)]
    table = side_of([record_of(*items)]).objects
    assert (len(table), table.places.tolist()) == (1, [1])


def test_sample_has_the_share_of_each_class() -> None:
    records = [
        ImageRecord(number, Pixels(np.zeros((8, 8, 3)), f"{number}.png"), (8, 8), (InstanceRecord((0, 0, 8, 8), c),))
        for number, c in enumerate([0] * 60 + [1] * 30 + [2] * 10)
    ]
    dataset = Dataset("cells", tuple(records), ("a", "b", "c"), (1, 2, 3))
    rows = sampled_rows(dataset, 20)
    classes = [records[row].instances[0].class_index for row in rows]
    assert [classes.count(number) for number in range(3)] == [12, 6, 2]
    assert sampled_rows(dataset, 0) == sampled_rows(dataset, 100) == tuple(range(100))
    huge = replace(dataset, records=tuple(replace(record, image_size=(8000, 8000)) for record in records))
    assert len(sampled_rows(huge, 90)) == 31  # of 2,000 million pixels


def test_large_image_is_measured_in_a_part_of_its_pixels_but_its_range_in_all() -> None:
    pixels = np.full((2000, 2400, 3), 100, dtype=np.uint8)
    pixels[:1000] = 50
    pixels[777, 1555] = 255
    read = build_fact_reader(config_of({}))
    facts = read(replace(record_of(size=(2000, 2400)), source=Pixels(pixels)))
    assert (facts.low, facts.high, facts.kind) == (50.0, 255.0, "8-bit grey")
    assert facts.means == pytest.approx((75.0, 75.0, 75.0), abs=0.1)
    assert facts.thumbnail is not None
    assert facts.thumbnail[:31] == pytest.approx(np.full((31, 64), 50.0), abs=0.5)
    assert facts.thumbnail[33:] == pytest.approx(np.full((31, 64), 100.0), abs=0.5)


# --- pixels and masks -------------------------------------------------------------------------------------------------


def test_pixel_moments_are_those_of_all_pixels_in_the_order_of_the_input() -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 200, (10, 12, 3), dtype=np.uint8) for _ in range(3)]
    read = build_fact_reader(config_of({"INPUT.FORMAT": "BGR"}))
    records = [replace(record_of(size=(10, 12)), source=Pixels(image)) for image in images]
    side = replace(side_of(records), images=tuple(map(read, records)))
    moments = pixel_moments([side])
    assert moments is not None
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])[:, ::-1]
    assert moments[0] == pytest.approx(pixels.mean(axis=0))
    assert moments[1] == pytest.approx(pixels.std(axis=0))


@pytest.mark.parametrize(
    ("mean", "deviation", "weights", "severity"),
    [  # the config has 100 and 50
        (110.0, 60.0, "", Severity.FINE),
        (160.0, 50.0, "", Severity.NOTE),  # 1.2 deviations away
        (100.0, 24.0, "", Severity.NOTE),  # 0.48 of the deviation
        (230.0, 50.0, "", Severity.WARNING),  # 2.6
        (100.0, 4.0, "", Severity.WARNING),  # 0.08
        (100.0, 260.0, "", Severity.WARNING),  # 5.2
        (230.0, 50.0, "model.pth", Severity.FINE),  # the values belong to the weights
        (100.0, 9.0, "model.pth", Severity.NOTE),
    ],
)
def test_statistics_far_from_those_of_the_config(
    mean: float, deviation: float, weights: str, severity: Severity
) -> None:
    facts = ImageFacts(kind="8-bit grey", means=(mean,), squares=(mean**2 + deviation**2,))
    side = replace(side_of([record_of()]), images=(facts,))
    (finding,) = check_statistics(DoctorInput((side,), replace(SETTINGS, weights=weights)))
    assert finding.severity == severity
    pasted = f"MODEL:\n  PIXEL_MEAN: [{mean:g}]\n  PIXEL_STD: [{deviation:g}]"
    assert finding.paste == ("" if weights or severity == Severity.FINE else pasted)


def test_mask_ceiling_of_a_square_is_one_and_of_a_diagonal_line_low() -> None:
    square, line = np.zeros((2, 400, 400), dtype=bool)
    square[50:350, 50:350] = True
    rows = np.arange(50, 350)
    line[rows, rows] = line[rows, rows + 1] = True
    ious = [
        grid_iou(record_of(size=(400, 400)), InstanceRecord((50, 50, 350, 350), 0, rle.encode(mask)), 28)
        for mask in (square, line)
    ]
    assert ious[0] == pytest.approx(1.0, abs=0.005)
    # A cell is 300 / 28 = 10.7 pixels wide, of which 2 are covered: nowhere half.
    assert ious[1] < 0.3


# --- anchors ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def levels() -> AnchorLevels:
    found, problem = build_anchor_levels(config_of({}, TINY_YAML))
    assert problem is None
    assert found is not None
    return found


def test_maps_of_anchors_have_the_sizes_of_the_models_maps(levels: AnchorLevels) -> None:
    model = build_model(config_of({}, TINY_YAML)).eval()
    batch = model.collate([Sample(image=torch.zeros(3, 70, 100), image_id=1, original_size=(70, 100))])  # type: ignore
    features = model.backbone(batch.pixels)  # type: ignore
    expected = [tuple(features[name].shape[-2:]) for name in ("p2", "p3", "p4", "p5", "p6")]
    assert list(levels.map_sizes((70, 100))) == expected


def test_anchor_ious_equal_those_with_all_anchors(levels: AnchorLevels) -> None:
    boxes = torch.tensor([[3.0, 4, 20, 30], [10, 10, 15, 15], [0, 0, 64, 64]])
    record = record_of(*(InstanceRecord(tuple(box), 0) for box in boxes.tolist()))
    measured = objects_to_measure(side_of([record]))
    anchors = levels.generator([torch.empty(1, 1, 64 // stride, 64 // stride) for stride in levels.strides])
    expected = box_iou(measured.boxes, torch.cat(anchors)).amax(dim=1)
    assert anchor_ious(measured, levels.generator, levels) == pytest.approx(expected)
    assert measured.boxes.tolist() == boxes[[1, 0, 2]].tolist()  # by size


def test_boxes_are_scaled_to_the_input_of_the_network() -> None:
    record = record_of(InstanceRecord((10, 20, 30, 60), 0), size=(100, 200))
    side = replace(side_of([record]), scale=InputScale(50, 80))  # the longer side is limited: factor 0.4
    measured: MeasuredObjects = objects_to_measure(side)
    assert measured.boxes[0].tolist() == pytest.approx([4.0, 8.0, 12.0, 24.0])
    assert measured.sizes == [(40, 80)]
    stretched = replace(side, scale=lambda _: (2.0, 3.0))  # type: ignore[arg-type]  # height, width
    assert stretched.input_boxes.tolist() == [[30.0, 40.0, 90.0, 120.0]]


# --- memory and time --------------------------------------------------------------------------------------------------


def test_saved_bytes_are_those_of_the_inputs_of_two_layers() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(10, 20, bias=False), torch.nn.Linear(20, 5, bias=False))
    with count_saved_bytes(model.parameters()) as saved:
        model(torch.zeros(7, 10)).sum().backward()
    assert saved[0] == 4 * (7 * 10 + 7 * 20)


def test_tensor_that_is_saved_several_times_counts_once() -> None:
    with count_saved_bytes([]) as saved:
        grown = torch.ones(50, requires_grad=True).exp()  # saves its result
        (grown * grown).sum().backward()  # saves it twice more
    assert saved[0] == 4 * 50


def test_extrapolation_follows_the_line_through_two_steps() -> None:
    small, large = Step(1, 100, 2.0, 1000), Step(1, 400, 5.0, 1600)
    assert extrapolated([small, large], 1600) == Step(1, 1600, 17.0, 4000)
    assert extrapolated([replace(small, seconds=9.0), large], 1600).seconds == 5.0  # noise does not make it shorter


ESTIMATE = Estimate(
    parameters=3_000_000,
    trained=2_000_000,
    weights_bytes=12_000_000,
    gradient_bytes=8_000_000,
    optimizer_bytes=16_000_000,
    step=Step(4, 4 * 128 * 128, 0.5, 64_000_000.0),
    measured="measured in a step of 4 images",
    loading_seconds=0.1,
    device="cpu",
    input_size=(128, 128),
)


def test_memory_and_time_in_words() -> None:
    assert memory_text(ESTIMATE) == (
        "3.0 million parameters, 1.0 million of them frozen; about 100.0 MB for a training step of 4 images: 36.0 MB "
        "weights, gradients and optimizer, 64.0 MB activations"
    )
    assert time_text(ESTIMATE, SETTINGS) == "0.5 s per iteration of 4 images on cpu: about 0:02:30 for 300 iterations"
    assert time_text(ESTIMATE, replace(SETTINGS, minutes=2.0)).endswith("about 240 iterations in 2 min")


def test_slow_loading_is_a_warning_with_the_number_of_processes() -> None:
    slow = DoctorInput((), SETTINGS, estimate=replace(ESTIMATE, loading_seconds=0.3))  # 1.2 s per batch
    *_, finding = check_resources(slow)
    assert (finding.severity, finding.paste) == (Severity.WARNING, "DATALOADER: {NUM_WORKERS: 4}")
    *_, finding = check_resources(replace(slow, estimate=ESTIMATE))
    assert finding.severity == Severity.FINE


# --- the run of the checks --------------------------------------------------------------------------------------------


def test_findings_are_ordered_by_severity_and_an_error_of_a_check_is_one_of_them() -> None:
    def refuse(_: DoctorInput) -> list[Finding]:
        raise UserError("cannot be checked")

    checks = [
        Check("calm", lambda _: iter([Finding(Severity.NOTE, "noted")]), "fine", needs_data=False),
        Check("quiet", lambda _: iter([]), "all is fine", needs_data=False),
        Check("strict", refuse, "", needs_data=False),  # type: ignore[arg-type]
        Check("data", lambda _: iter([Finding(Severity.ERROR, "never run")]), ""),
    ]
    found = run_checks(DoctorInput((), SETTINGS), checks).findings
    assert [(finding.check, finding.severity.name, finding.title) for finding in found] == [
        ("strict", "ERROR", "cannot be checked"),
        ("calm", "NOTE", "noted"),
        ("quiet", "FINE", "all is fine"),
    ]


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "0 %"), (0, 5, "0 %"), (1, 3, "33 %"), (1, 1000, "0.1 %"), (999, 1000, "99.9 %"), (5, 5, "100 %")],
)
def test_shares_in_words(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text
