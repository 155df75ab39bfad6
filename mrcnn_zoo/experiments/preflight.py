"""Mistakes of all variants that show only when a training starts, found before the first one is trained.

Names of components, parts in FROM, and that there are the files with weights and those of the datasets. Their content
is checked by each training itself.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

from mrcnn_zoo.checkpoint.sources import find_weights
from mrcnn_zoo.config import changed_config
from mrcnn_zoo.data.paths import find_path
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.identity import dataset_definitions, leaves_of
from mrcnn_zoo.experiments.records import FINISHED, read_run_file
from mrcnn_zoo.experiments.runs import FINAL_WEIGHTS, RunKey, RunSpec
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.training.log_files import logging_from
from mrcnn_zoo.training.preflight import check_registered_names
from mrcnn_zoo.training.stages.inheritance import ModelDescription, describe_model, inherited_names
from mrcnn_zoo.training.stages.stage import Stage, build_stages, naming_stage

FIELDS_WITH_PATHS = ("IMAGES", "ANNOTATIONS", "LABELS")  # of the definitions of datasets
# Models whose configs differ in these sections alone have equal components.
OTHER_SECTIONS = ("DATASETS.", "DATALOADER.", "EVAL.", "SOLVER.", "SEED", "MODEL.WEIGHTS")

BUILD_ERRORS = (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


def check_trainings(specs: Sequence[RunSpec], trained: Collection[RunKey]) -> None:
    """Build the models of all variants that will be trained, without weights, and find their files with weights.

    Args:
        specs: all runs of a sweep.
        trained: those that will be trained from the beginning; of each variant one is checked.

    Raises:
        UserError: naming all variants that cannot be trained, with the reasons.
    """
    by_key = {spec.key: spec for spec in specs}
    models: dict[str, ModelDescription] = {}
    problems: dict[str, list[str]] = {}  # variants by problem: a mistake in the base config is in all of them
    for variant in dict.fromkeys(spec.key.variant for spec in specs if spec.key in trained):
        own = [spec for spec in specs if spec.key.variant == variant and spec.key in trained]
        try:
            _check_variant(own[0], by_key, models)
            _check_sources([by_key[key] for spec in own for key in spec.sources], trained)
        except UserError as error:
            problems.setdefault(str(error), []).append(variant)
    if problems:
        count = sum(map(len, problems.values()))
        lines = [f"  {', '.join(variants)}: {problem}" for problem, variants in problems.items()]
        raise UserError(f"{counted(count, 'variant')} cannot be trained:\n" + "\n".join(lines))


def _check_variant(spec: RunSpec, specs: Mapping[RunKey, RunSpec], models: dict[str, ModelDescription]) -> None:
    """Check one run of a variant; `models` has those of earlier variants, by their config."""
    stages = build_stages(spec.cfg)
    for stage in stages:
        with naming_stage(stage):
            check_registered_names(stage.cfg, is_training=True)
            _describe(stage, models)
    for stage in stages:
        with naming_stage(stage):
            _check_datasets(stage)
            _check_weights(_weights_of(stage, spec))
    for part, key in spec.inherited:
        source = _describe(build_stages(specs[key].cfg)[-1], models)
        inherited_names(part, _describe(stages[0], models).shapes, source.shapes, key=f"FROM, {part.part}")


def _describe(stage: Stage, models: dict[str, ModelDescription]) -> ModelDescription:
    """The description of the model of a stage; models of equal configs are built once."""
    key = repr([leaf for leaf in leaves_of(stage.cfg) if not leaf[0].startswith(OTHER_SECTIONS)])
    if key not in models:
        try:
            with logging_from(logging.WARNING):  # what is built is logged when it is trained
                models[key] = describe_model(build_model(changed_config(stage.cfg, {"MODEL.DEVICE": "cpu"})))
        except UserError:
            raise
        except BUILD_ERRORS as error:
            raise UserError(f"its model cannot be built: {type(error).__name__}: {error}") from error
    return models[key]


def _check_sources(sources: Sequence[RunSpec], trained: Collection[RunKey]) -> None:
    """Refuse a run whose weights would come from a finished one that has none."""
    for source in sources:
        is_finished = source.key not in trained and read_run_file(source.folder).get("status") == FINISHED
        if is_finished and not (source.folder / FINAL_WEIGHTS).exists():
            raise UserError(
                f"it starts FROM {source.key}, which is finished, but {source.folder / FINAL_WEIGHTS} is missing. "
                "Restore the file, or remove the folder of that run to train it again."
            )


def _check_datasets(stage: Stage) -> None:
    for name in dict.fromkeys((*stage.cfg.DATASETS.TRAIN, *stage.cfg.DATASETS.TEST)):
        for definition in dataset_definitions(stage.cfg, name):
            for field in FIELDS_WITH_PATHS:
                if isinstance(definition.get(field), str) and definition[field]:
                    find_path(definition[field], dataset=name, what=f"file or folder {field}")


def _weights_of(stage: Stage, spec: RunSpec) -> str:
    """The file with the first weights of a stage; "" where it has none, or takes them from another run or stage."""
    if stage.starts_from:
        return ""
    weights: str = stage.cfg.MODEL.WEIGHTS
    return spec.base_weights if spec.sources and weights == spec.cfg.MODEL.WEIGHTS else weights


def _check_weights(weights: str) -> None:
    """Refuse a missing file or an unknown model of the zoo; nothing is downloaded."""
    if weights.startswith(index.PREFIX):
        index.weights_address(index.find_entry(weights))
    elif weights and "://" not in weights:
        find_weights(weights)
