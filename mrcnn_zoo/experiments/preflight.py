"""Mistakes of all variants that show only when a training starts, found before the first one is trained.

Names of components, parts in FROM, and files with weights are checked. Data, classes and weights that do not fit the
model are checked by each training itself.
"""

import logging
from collections.abc import Collection, Sequence

from mrcnn_zoo.checkpoint.sources import find_weights
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.identity import leaves_of
from mrcnn_zoo.experiments.runs import RunKey, RunSpec
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.training.preflight import check_registered_names
from mrcnn_zoo.training.stages.inheritance import ModelDescription, describe_model, inherited_names
from mrcnn_zoo.training.stages.stage import Stage, build_stages, naming_stage

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
    checked = {spec.key.variant: spec for spec in reversed(specs) if spec.key in trained}
    check = _VariantCheck()
    problems: dict[str, list[str]] = {}  # variants by problem: a mistake in the base config is in all of them
    for variant in dict.fromkeys(spec.key.variant for spec in specs if spec.key in trained):
        try:
            check.run(checked[variant], by_key)
        except UserError as error:
            problems.setdefault(str(error), []).append(variant)
    if problems:
        count = sum(map(len, problems.values()))
        lines = [f"  {', '.join(variants)}: {problem}" for problem, variants in problems.items()]
        raise UserError(f"{counted(count, 'variant')} cannot be trained:\n" + "\n".join(lines))


class _VariantCheck:
    """Checks variants; models of equal configs are built once."""

    def __init__(self) -> None:
        self._models: dict[str, ModelDescription] = {}

    def run(self, spec: RunSpec, specs: dict[RunKey, RunSpec]) -> None:
        stages = build_stages(spec.cfg)
        for stage in stages:
            with naming_stage(stage):
                check_registered_names(stage.cfg, is_training=True)
                self._describe(stage.cfg)
        for stage in stages:
            with naming_stage(stage):
                _check_weights(_weights_of(stage, spec))
        for part, key in spec.inherited:
            source = self._describe(build_stages(specs[key].cfg)[-1].cfg)
            inherited_names(part, self._describe(stages[0].cfg).shapes, source.shapes, key=f"FROM, {part.part}")

    def _describe(self, cfg: CfgNode) -> ModelDescription:
        key = repr([leaf for leaf in leaves_of(cfg) if not leaf[0].startswith(OTHER_SECTIONS)])
        if key not in self._models:
            ours = logging.getLogger("mrcnn_zoo")
            level = ours.level
            ours.setLevel(logging.WARNING)  # what is built is logged when it is trained
            try:
                self._models[key] = describe_model(build_model(changed_config(cfg, {"MODEL.DEVICE": "cpu"})))
            except UserError:
                raise
            except (
                ArithmeticError,
                AttributeError,
                ImportError,
                LookupError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                raise UserError(f"its model cannot be built: {type(error).__name__}: {error}") from error
            finally:
                ours.setLevel(level)
        return self._models[key]


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
