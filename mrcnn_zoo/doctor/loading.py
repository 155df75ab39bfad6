"""The input of the checks: what is refused while data are loaded and the training is planned becomes a finding."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from mrcnn_zoo import data
from mrcnn_zoo.checkpoint.sources import find_weights
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data.classes import merge_datasets, unite_classes
from mrcnn_zoo.data.images.pixels import RANGE
from mrcnn_zoo.data.loading.selection import build_object_filter, select_for_training, warn_of_selection
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.doctor.annotations import REPAIR, repair_finding
from mrcnn_zoo.doctor.estimate import Estimate, build_estimate
from mrcnn_zoo.doctor.examined import (
    TRAIN,
    VAL,
    AnchorLevels,
    DoctorInput,
    Side,
    build_input_scale,
    build_model_settings,
    sampled_rows,
)
from mrcnn_zoo.doctor.finding import Finding, Severity
from mrcnn_zoo.doctor.pixels import build_fact_reader, read_facts
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.coco import PROPOSAL_NETWORK
from mrcnn_zoo.evaluation.limits import build_limits, cut_objects_message
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.model_zoo.download import cached_path
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.anchors.grid_anchors import anchor_lists
from mrcnn_zoo.structures import FeatureSpec
from mrcnn_zoo.training.preflight import check_registered_names, plan_training
from mrcnn_zoo.training.stages.stage import build_stages

WEIGHTS, TIMM_WEIGHTS = "MODEL.WEIGHTS", "MODEL.TIMM.PRETRAINED"
NOT_REQUESTED = "it was not requested"

Loaded = dict[str, list[Dataset]]  # by role


def build_doctor_input(cfg: CfgNode, *, num_images: int, measures: bool = True) -> DoctorInput:
    """Load the datasets of a config, plan its training, read a sample of images, and measure a training step.

    Args:
        cfg: of the training.
        num_images: that are read of each dataset; 0 for all.
        measures: whether memory and time are measured.

    Raises:
        UserError: the config names no dataset, or settings of its input contradict each other.
    """
    if not (cfg.DATASETS.TRAIN or cfg.DATASETS.TEST):
        raise UserError(
            "the config names no dataset to check: set DATASETS.TRAIN, e.g. DATASETS.TRAIN digits_train, or the folder "
            "of your annotations."
        )
    with _captured_warnings() as messages:
        cfg, loaded, findings = _load(cfg)
        cfg, class_check = _fit_classes(cfg, loaded)
        cfg, refusals = _plan(cfg, loaded)
    findings += refusals
    reported = _reported_elsewhere(cfg, loaded)
    names = [dataset.name for datasets in loaded.values() for dataset in datasets]
    findings += [_logged_finding(text, names) for text in dict.fromkeys(messages) if text not in reported]
    sides = _read_sides(cfg, loaded, num_images=num_images)
    anchors, problem = build_anchor_levels(cfg)
    estimate, reason = None, NOT_REQUESTED
    if problem is None and measures:
        estimate, reason, problem = _estimate(cfg, sides)
    elif problem is not None:
        reason = "the model cannot be built"
    findings += [problem] if problem is not None else []
    return DoctorInput(
        sides,
        build_model_settings(cfg),
        loading=tuple(findings),
        class_check=class_check,
        anchors=anchors,
        estimate=estimate,
        not_estimated=reason,
    )


def _read_sides(cfg: CfgNode, loaded: Loaded, *, num_images: int) -> tuple[Side, ...]:
    """The datasets with what was read of a sample of their images."""
    read = build_fact_reader(_with_readable_depth(cfg))
    trained = {dataset.name for dataset in loaded[TRAIN]}
    sides = []
    for role, datasets in loaded.items():
        for dataset in datasets:
            is_part = role == VAL and dataset.name in trained
            named = replace(dataset, name=f"{dataset.name} (held out)") if is_part else dataset
            sides.append(Side(role, named, sampled_rows(named, num_images), build_input_scale(cfg, role)))
    return tuple(
        replace(side, images=tuple(read_facts(side.sample, read, label=f"reading {side.name}"))) for side in sides
    )


def _load(cfg: CfgNode) -> tuple[CfgNode, Loaded, list[Finding]]:
    """The config with the datasets that can be loaded, these by role, and the refusals of the others."""
    try:
        return cfg, _load_all(cfg), []
    except UserError as error:
        findings = [Finding(Severity.ERROR, str(error))]
    kept: dict[str, list[str]] = {"TRAIN": [], "TEST": []}
    for key, names in kept.items():
        for name in cfg.DATASETS[key]:
            other = "TEST" if key == "TRAIN" else "TRAIN"
            try:
                _load_all(changed_config(cfg, {f"DATASETS.{key}": [name], f"DATASETS.{other}": []}))
                names.append(name)
            except UserError as error:
                findings.append(Finding(Severity.ERROR, str(error)))
    findings = list({finding.title: finding for finding in findings}.values())
    if kept == {key: list(cfg.DATASETS[key]) for key in kept}:  # refused together, e.g. as classes differ
        return cfg, {TRAIN: [], VAL: []}, findings
    cfg = changed_config(cfg, {f"DATASETS.{key}": names for key, names in kept.items()})
    return cfg, _load_all(cfg), findings


def _load_all(cfg: CfgNode) -> Loaded:
    loaded = data.load_train_and_test(cfg)
    return {TRAIN: unite_classes(loaded.train) if loaded.train else [], VAL: list(loaded.test)}


def _fit_classes(cfg: CfgNode, loaded: Loaded) -> tuple[CfgNode, str]:
    """The config with the number of classes of the training data, and the refusal of another one."""
    if not loaded[TRAIN] or cfg.MODEL.META_ARCHITECTURE == PROPOSAL_NETWORK:
        return cfg, ""
    merged = merge_datasets(loaded[TRAIN])
    try:
        cfg = data.fit_num_classes(cfg, len(merged.class_names), owner=merged.name)
        data.check_num_classes(cfg, merged)
    except UserError as error:
        return cfg, str(error)
    return cfg, ""


def _plan(cfg: CfgNode, loaded: Loaded) -> tuple[CfgNode, list[Finding]]:
    """The config that fits the data, and the refusals while the training is planned."""
    findings = list(_check_weights(cfg.MODEL.WEIGHTS))
    try:
        for stage in build_stages(cfg):
            check_registered_names(stage.cfg, is_training=True)
        if loaded[TRAIN]:  # the weights, which may be large, are not read
            plan = plan_training(changed_config(cfg, {WEIGHTS: ""}), resume=False)
            cfg = changed_config(plan.cfg, {WEIGHTS: cfg.MODEL.WEIGHTS})
            merged = merge_datasets(plan.train_datasets)
            warn_of_selection(cfg, merged, select_for_training(cfg, merged))
    except UserError as error:
        findings.append(Finding(Severity.ERROR, str(error)))
    return cfg, findings


def _reported_elsewhere(cfg: CfgNode, loaded: Loaded) -> set[str]:
    """Warnings that checks report with examples: repairs of the readers, and objects beyond a limit."""
    texts = set()
    for role, datasets in loaded.items():
        for dataset in datasets:
            texts |= {f"{dataset.name}: {note}" for note in dataset.notes}
            texts.add(cut_objects_message(dataset, build_limits(cfg, is_training=role == TRAIN)))
    return texts


def _logged_finding(text: str, names: Sequence[str]) -> Finding:
    """A finding about a logged warning; those of readers are repairs, which may be harmless."""
    for name in names:
        if REPAIR.fullmatch(note := text.removeprefix(f"{name}: ")) and note != text:
            return repair_finding(name, note, total=0)
    return Finding(Severity.WARNING, text)


def _check_weights(name: str) -> Iterator[Finding]:
    """A finding about weights that do not exist, or are not downloaded yet."""
    if not name:
        return
    if "://" in name and not name.startswith(index.PREFIX) and not cached_path(name).is_file():
        yield Finding(Severity.SKIPPED, f"{WEIGHTS} {name} is not downloaded yet", "The training downloads it.")
        return
    try:
        entry = index.find_entry(name) if name.startswith(index.PREFIX) else None
        address = index.weights_address(entry) if entry is not None and not entry.is_shipped else ""
        if address and not cached_path(address).is_file():
            yield Finding(Severity.SKIPPED, f"{WEIGHTS} {name} is not downloaded yet", "The training downloads it.")
        else:
            find_weights(name)
    except UserError as error:
        yield Finding(Severity.ERROR, str(error))


class _Messages(logging.Handler):
    """Keeps the texts of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _captured_warnings() -> Iterator[list[str]]:
    """Keep the warnings of the package instead of printing them.

    Yields:
        their texts, filled while the block runs.
    """
    package, handler = logging.getLogger("mrcnn_zoo"), _Messages()
    former = package.propagate, package.handlers
    package.propagate, package.handlers = False, [handler]
    try:
        yield handler.texts
    finally:
        package.propagate, package.handlers = former


def _with_readable_depth(cfg: CfgNode) -> CfgNode:
    """The config with a conversion of deep pixels that needs no range, where the plan failed before it was measured."""
    if cfg.INPUT.SIXTEEN_BIT == RANGE and not cfg.INPUT.VALUE_RANGE:
        return changed_config(cfg, {"INPUT.SIXTEEN_BIT": "stretch"})
    return cfg


def build_anchor_levels(cfg: CfgNode) -> tuple[AnchorLevels | None, Finding | None]:
    """The anchors of the model, None for one without; and the refusal of a model that cannot be built.

    Args:
        cfg: of the model.
    """
    try:
        with torch.random.fork_rng():
            model = build_model(changed_config(cfg, {TIMM_WEIGHTS: False, "MODEL.DEVICE": "cpu"}))
    except UserError as error:
        return None, Finding(Severity.ERROR, str(error))
    owner = next((part for part in model.modules() if hasattr(part, "anchor_generator")), None)
    if owner is None:
        return None, None
    specs: Mapping[str, FeatureSpec] = model.backbone.output_specs  # type: ignore[union-attr, assignment]
    names: Sequence[str] = owner.in_features  # type: ignore[assignment]
    strides = tuple(specs[name].stride for name in names)
    settings = cfg.MODEL.ANCHOR_GENERATOR
    sizes, ratios = (anchor_lists(settings[key], len(strides), key)[0] for key in ("SIZES", "ASPECT_RATIOS"))
    divisibility = model.collate.size_divisibility  # type: ignore[union-attr]
    levels = AnchorLevels(
        owner.anchor_generator,  # type: ignore[arg-type]
        strides,
        int(divisibility),  # type: ignore[arg-type]
        sizes_per_level=len(sizes),
        num_ratios=len(ratios),
        offset=settings.OFFSET,
    )
    return levels, None


def _estimate(cfg: CfgNode, sides: Sequence[Side]) -> tuple[Estimate | None, str, Finding | None]:
    """The measurement; where there is none, the reason, and the error that a training would end with."""
    if cfg.MODEL.LOAD_PROPOSALS:
        return None, "the model needs precomputed proposals", None
    trains = build_object_filter(cfg)
    for side in sides:
        records = [
            record
            for record, facts in zip(side.sample, side.images, strict=True)
            if not facts.problem and any(map(trains, record.instances))
        ]
        if side.role == TRAIN and records:
            try:
                return build_estimate(changed_config(cfg, {TIMM_WEIGHTS: False}), side.dataset, records), "", None
            except UserError as error:
                return None, "a training step fails", Finding(Severity.ERROR, str(error))
            except torch.cuda.OutOfMemoryError:
                images = counted(cfg.SOLVER.IMS_PER_BATCH, "image")
                text = f"a training step of {images} needs more memory than the GPU has"
                advice = "Set a smaller SOLVER.IMS_PER_BATCH with SOLVER.ACCUMULATE_STEPS, or smaller images (INPUT)."
                return None, "a training step fails", Finding(Severity.ERROR, text, advice)
    return None, "no readable training image with objects was found", None
