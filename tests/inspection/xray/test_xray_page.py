"""The X-ray page in a browser: steps, layers, the history under the pointer, lost objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.cli.main import main
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.records import ImageRecord, InstanceRecord
from mrcnn_zoo.inference.image_detector import build_image_detector
from mrcnn_zoo.inference.trained import open_trained
from mrcnn_zoo.inspection.xray.data import XrayImage
from mrcnn_zoo.inspection.xray.page import xray_image, xray_page
from support.browser import PHONE, OpenPage, browser, open_page
from support.xray_images import xray_of

WEIGHTS = "zoo://Quickstart/mask_rcnn_R_18_FPN_digits"
STEPS = (
    *("input", "features", "scores", "anchors", "refine", "nms", "levels", "bins", "classes", "boxes", "classnms"),
    *("soft", "result"),
)


@pytest.fixture(scope="module")
def image() -> XrayImage:
    """The fifth digits image with its 2 and 0, and objects that the model cannot find: a speck, and a 5 for the 0."""
    model, cfg, trained = open_trained(WEIGHTS, overrides=["MODEL.DEVICE", "cpu"])
    dataset = load_dataset(cfg, "digits_val")
    record = dataset.records[4]
    zero = next(item for item in record.instances if dataset.class_names[item.class_index] == "0")
    instances = (
        *record.instances,
        InstanceRecord((5.0, 5.0, 9.0, 9.0), 1, [[5.0, 5.0, 9.0, 5.0, 9.0, 9.0]]),
        InstanceRecord(zero.box, 5, zero.segmentation),
    )
    changed = ImageRecord(record.image_id, record.source, record.image_size, instances)
    return xray_image(
        build_image_detector(cfg, model, trained, score_threshold=1.0),
        record.source,
        channel_order=cfg.INPUT.FORMAT,
        record=changed,
        names=dataset.class_names,
    )


@pytest.fixture(scope="module")
def path(image: XrayImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xray") / "xray.html"
    path.write_text(xray_page(image, caption="digits"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened(path: Path) -> Iterator[OpenPage]:
    with browser() as chromium:
        yield open_page(chromium, path)


@pytest.fixture(autouse=True)
def start(opened: OpenPage) -> None:
    """The first step without a choice."""
    opened.page.set_viewport_size({"width": 1280, "height": 900})
    opened.page.wait_for_selector("#place:not(:empty)")
    opened.page.evaluate("select(null); goTo(0)")


def go(opened: OpenPage, step: str) -> None:
    opened.page.click(f'[data-step="{step}"]')


CHECKSUM = """() => {
  const values = new Uint32Array(pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  let sum = 0;
  for (const value of values) sum = (Math.imul(sum, 31) + value) | 0;
  return sum; }"""


def pixels(opened: OpenPage) -> int:
    """A checksum of the picture."""
    found: int = opened.page.evaluate(CHECKSUM)
    return found


def point(opened: OpenPage, x: float, y: float) -> dict[str, float]:
    """The place on the page of a pixel of the resized image."""
    frame: Any = opened.page.locator("#picture").bounding_box()
    return {"x": frame["x"] + x / 128 * frame["width"], "y": frame["y"] + y / 128 * frame["height"]}


def test_steps_by_strip_buttons_and_keys(opened: OpenPage) -> None:
    page = opened.page
    assert page.evaluate("data.steps") == list(STEPS)
    assert page.locator("#previous").is_disabled()
    titles = []
    for number, step in enumerate(STEPS, start=1):
        assert page.text_content("#place") == f"{number} / {len(STEPS)}"
        assert page.get_attribute("[aria-current]", "data-step") == step
        titles.append(page.locator("[data-text]:visible h2").inner_text())
        if number % 2 and number < len(STEPS):
            page.click("#next")
        else:
            page.keyboard.press("ArrowRight")
    assert len(set(titles)) == len(STEPS)
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("[aria-current]", "data-step") == "soft"
    opened.check()


def test_every_layer_changes_the_picture(opened: OpenPage) -> None:
    where = {"image": "input", "heat": "scores", "boxes": "anchors", "lines": "boxes", "suppressed": "nms"}
    where |= {"bins": "bins", "masks": "result", "labels": "result", "objects": "result"}
    assert opened.page.evaluate("Object.keys(LAYER_STEPS)") == list(where)
    for layer, step in where.items():
        go(opened, step)
        before = pixels(opened)
        opened.page.click(f'[data-layer="{layer}"]')
        assert pixels(opened) != before, layer
        opened.page.click(f'[data-layer="{layer}"]')
        assert pixels(opened) == before, layer
    opened.check()


def test_level_count_movement_and_zoom_change_the_picture(opened: OpenPage) -> None:
    page = opened.page
    go(opened, "refine")
    assert page.text_content("#count-text") == "60 of 800 boxes drawn, best scores first"
    before = pixels(opened)
    page.evaluate("byId('movement').value = 0; byId('movement').dispatchEvent(new Event('input'))")
    at_anchors = pixels(opened)
    assert at_anchors != before
    page.evaluate("byId('movement').value = 1; byId('movement').dispatchEvent(new Event('input'))")
    assert pixels(opened) == before
    page.click("#play")
    assert 0 < page.evaluate("new Promise((done) => setTimeout(() => done(state.movement), 200))") < 1
    page.evaluate("byId('movement').value = 1; byId('movement').dispatchEvent(new Event('input'))")
    page.evaluate("byId('count').value = 7; byId('count').dispatchEvent(new Event('input'))")
    assert page.text_content("#count-text") == "7 of 800 boxes drawn, best scores first"
    page.click('[data-level="0"]')
    assert page.text_content("#count-text") == "7 of 400 boxes drawn, best scores first"
    page.click('[data-level="0"]')
    page.click('[data-detection="0"]')
    chosen = pixels(opened)
    page.click("#zoom")
    assert pixels(opened) != chosen
    page.click("#zoom")
    opened.check()


def test_history_of_a_detection_is_that_of_the_recording(opened: OpenPage, image: XrayImage) -> None:
    reports, values = image.recording.of_image(0), image.recording.values_of_image(0)
    boxes, proposals = reports["boxes"], reports["proposals"]
    row = int(boxes.kept[0])
    region = int(boxes.sources[row])
    anchor = int(proposals.kept[region])
    level = int(proposals.classes[anchor])
    rank = 1 + int((proposals.scores[proposals.classes == level] > proposals.scores[anchor]).sum())
    opened.page.click('[data-detection="0"]')
    lines = opened.page.locator("#history-list li").all_inner_texts()
    history = dict(line.split("\n") for line in lines)
    objectness, count = float(proposals.scores[anchor].sigmoid()), int((proposals.classes == level).sum())
    assert history["Objectness"] == f"{objectness:.2f}, rank {rank} of {count:,} on p{2 + level}"
    width, height = (
        values["anchors"].values["boxes"][anchor, 2:] - values["anchors"].values["boxes"][anchor, :2]
    ).tolist()
    assert f"{width:.0f} x {height:.0f} pixels" in history["Anchor"]
    suppressed = int((proposals.suppressed_by == anchor).sum())
    assert history["NMS of proposals"] == f"kept, place {region + 1} of 100; it suppressed {suppressed} boxes"
    assert history["Pooled from"].startswith(f"p{2 + int(values['box pooling'].values['levels'][region])}, 7 x 7 bins")
    score = float(image.detections.scores[0])
    assert history["Class scores"].startswith(f"0 ({score:.2f})")
    removed = int((boxes.suppressed_by == row).sum())
    assert history["NMS of class 0"] == f"kept, place 1 of {len(boxes.kept)}; it suppressed {removed} boxes"
    corners = ", ".join(f"{edge:.1f}" for edge in image.detections.boxes[0].tolist())
    assert history["Detection #1"] == f"0 ({score:.2f}), box {corners} in pixels of the file"


def test_pointing_shows_a_history_and_a_click_keeps_it_through_the_steps(opened: OpenPage, image: XrayImage) -> None:
    page = opened.page
    go(opened, "result")
    x, y = ((image.detections.boxes[0, :2] + image.detections.boxes[0, 2:]) / 2).tolist()
    page.mouse.move(**point(opened, x, y))
    assert "Detection #1" in page.inner_text("#history-list")
    page.mouse.move(**point(opened, 2, 126))
    assert page.inner_text("#history-list") == ""
    page.mouse.click(**point(opened, x, y))
    page.mouse.move(5, 5)
    for step in reversed(STEPS):
        go(opened, step)
        assert "Detection #1" in page.inner_text("#history-list")
    page.click("#history-list button:text('NMS of proposals')")
    assert page.get_attribute("[aria-current]", "data-step") == "nms"
    page.keyboard.press("Escape")
    assert page.inner_text("#history-list") == ""
    opened.check()


def test_keys_go_through_the_boxes_of_the_focused_picture(opened: OpenPage) -> None:
    page = opened.page
    go(opened, "result")
    page.focus("#picture")
    chosen = []
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        chosen.append(page.get_attribute("[data-detection][aria-pressed=true]", "data-detection"))
    assert chosen == ["0", "1", "0", "1"]  # two detections of the start score
    assert page.get_attribute("#picture", "aria-label") == (
        "digits/val/000004 (seed 0), step 13: Result. 2 of 3 detections"
    )


def test_suppressed_and_kept_boxes_name_each_other(opened: OpenPage) -> None:
    page = opened.page
    by = page.evaluate("stages[0].suppressedBy.findIndex((by) => by >= 0)")
    page.evaluate(f"select(pathOf(0, {by}))")
    assert "suppressed by a box of score" in page.inner_text("#history-list")
    assert "Detection" not in page.inner_text("#history-list")
    page.evaluate(f"select(pathOf(0, stages[0].suppressedBy[{by}]))")
    assert "it suppressed" in page.inner_text("#history-list")


def test_cards_of_found_and_lost_objects(opened: OpenPage) -> None:
    page = opened.page
    numbers = [int(card.get_attribute("data-object")) for card in page.locator("[data-object]").all()]
    cards = dict(zip(numbers, page.locator("[data-object]").all_inner_texts(), strict=True))
    assert numbers == [2, 3, 0, 1]  # lost ones first
    assert page.inner_text("section:has(.objects) .caption") == "2 lost, 2 found"
    assert all("found by detection #" in cards[number] for number in (0, 1))
    assert "lost at anchors: no anchor overlaps enough" in cards[2]
    assert "lost at box head: misclassified" in cards[3]
    for number, step in ((2, "anchors"), (3, "classes")):
        page.click(f'[data-object="{number}"]')
        assert page.get_attribute("[aria-current]", "data-step") == step
        assert page.get_attribute("[data-object][aria-pressed=true]", "data-object") == str(number)
    found = next(number for number, card in cards.items() if "found by detection #1" in card)
    page.click(f'[data-object="{found}"]')
    assert "Detection #1" in page.inner_text("#history-list")
    opened.check()


def test_maps_class_scores_and_mask_grid(opened: OpenPage) -> None:
    page = opened.page
    page.click('[data-detection="0"]')
    go(opened, "scores")
    before = pixels(opened)
    page.locator("button.map").last.click()
    assert page.locator("button.map[aria-pressed=true]").count() == 1
    assert pixels(opened) != before
    page.mouse.move(**point(opened, 122, 122))
    assert page.inner_text("#value").startswith("p3, row 15, column 15: 0.0")
    go(opened, "classes")
    assert page.locator(".bars li").count() == 10
    assert page.locator(".bars li").first.inner_text().split("\n")[0] == "0"
    go(opened, "soft")
    assert page.locator("#detail canvas").get_attribute("aria-label") == "mask probabilities of detection 1"
    opened.check()


def test_masks_are_drawn_where_the_prediction_has_them(opened: OpenPage, image: XrayImage) -> None:
    assert image.detections.masks is not None
    script = """(text) => { const drawn = maskCanvas(text, "#ffffff");
      return [...drawn.getContext("2d").getImageData(0, 0, drawn.width, drawn.height).data]
        .filter((_, at) => at % 4 === 3).map((alpha) => (alpha ? 1 : 0)); }"""
    drawn = opened.page.evaluate(script, image.detections.masks.rles()[0]["counts"])
    assert drawn == image.detections.masks.bitmaps()[0].int().flatten().tolist()


def test_phone(opened: OpenPage) -> None:
    opened.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    for step in STEPS:
        opened.page.locator(f'[data-step="{step}"]').click()
        opened.check()
    frame: Any = opened.page.locator("#picture").bounding_box()
    assert frame["width"] > 0.85 * PHONE[0]
    opened.page.locator("#picture").click()
    assert opened.page.inner_text("#history-list") != ""
    opened.page.locator("#least").fill("0")
    assert opened.page.locator("[data-detection]").count() == opened.page.evaluate("data.detections.length")


REGIONS = ("levels", "bins", "classes", "boxes", "classnms")
STEPS_OF_KINDS = {
    "CascadeROIHeads": STEPS,
    "Res5ROIHeads": STEPS,
    "RetinaNet": ("input", "features", "scores", "anchors", "refine", "classnms", "result"),
    "ProposalNetwork": (*STEPS[:6], "result"),
    "given proposals": ("input", "features", *REGIONS, "soft", "result"),
}


SLOW = {"Res5ROIHeads", "ProposalNetwork", "given proposals"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in STEPS_OF_KINDS]
)
def test_models_of_every_kind_have_their_steps(kind: str, opened: OpenPage, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(xray_page(xray_of(kind), start_score=0.0), encoding="utf-8")
    chromium: Any = opened.page.context.browser
    other = open_page(chromium, path)
    other.page.wait_for_selector("#place:not(:empty)")
    assert other.page.evaluate("data.steps") == list(STEPS_OF_KINDS[kind])
    script = """() => data.steps.map((step) => { goTo(steps.indexOf(step)); const drawn = items();
      drawn.slice(0, 3).forEach((item) => { select(itemPath(item)); historyOf(itemPath(item)); });
      data.objects.forEach((object, number) => spotlight(number, step)); select(null); return drawn.length; })"""
    counts = dict(zip(STEPS_OF_KINDS[kind], other.page.evaluate(script), strict=True))
    assert all(count > 0 for step, count in counts.items() if step not in STEPS[:3])
    other.check()
    other.page.close()


def test_steps_of_an_image_without_regions(opened: OpenPage, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(xray_page(xray_of("no regions")), encoding="utf-8")
    chromium: Any = opened.page.context.browser
    other = open_page(chromium, path)
    other.page.wait_for_selector("#place:not(:empty)")
    texts = other.page.evaluate("data.steps.map((_, place) => { goTo(place); return document.body.innerText; })")
    assert any("The model has no regions in this image." in text for text in texts)
    other.check()
    other.page.close()


def test_command_writes_a_page_per_image(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = path.with_name("two.html")
    image_ids = ("--image-id", "3", "--image-id", "5")
    command = ["xray", "--dataset", "digits_val", "--weights", WEIGHTS, "--output", str(output), "MODEL.DEVICE", "cpu"]
    assert main([*command, *image_ids]) == 0
    pages = sorted(path.parent.glob("two*.html"))
    assert [page.name for page in pages] == ["two-000002.html", "two-000004.html"]
    printed = capsys.readouterr().out
    assert all(str(page) in printed for page in pages)
    assert all(page.stat().st_size < 5e6 for page in pages)


def test_image_id_that_is_not_in_the_dataset_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xray", "--dataset", "digits_val", "--image-id", "999", "--weights", WEIGHTS]) == 2
    known = "there is no image with --image-id 999; its 200 images have the ids 1, 2, 3, 4, 5, ..."
    assert known in " ".join(capsys.readouterr().err.split())
