"""Weights that a stage takes by part from earlier ones: checked before the run, joined into one file for the stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import WeightsFile, load_weights_file, read_weights
from mrcnn_zoo.checkpoint.adaptation import stored_class_names
from mrcnn_zoo.checkpoint.matching import CLASS_LAYERS
from mrcnn_zoo.checkpoint.report import Shape, shape_text
from mrcnn_zoo.config.stage_list import InheritedPart
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import ProposesRegions
from mrcnn_zoo.output_files import write_atomically
from mrcnn_zoo.training.parts import ALIASES, COUNTER, names_in_part, nothing_matches
from mrcnn_zoo.training.stages.stage import Stage

ORIGINS = "origins"  # in a file of joined weights: name of a weight -> stage or file that it is from


@dataclass(frozen=True)
class ModelDescription:
    """The properties of the model of a stage that later stages depend on."""

    shapes: Mapping[str, Shape]  # of each weight, by name
    proposes: bool  # whether it has proposals


def describe_model(model: nn.Module) -> ModelDescription:
    """The names and shapes of the weights of a model, and whether it has proposals.

    Args:
        model: of a stage.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    return ModelDescription(shapes, isinstance(model, ProposesRegions))


def inherited_names(
    inherited: InheritedPart, targets: Mapping[str, Shape], sources: Mapping[str, Shape], *, key: str
) -> dict[str, str]:
    """The weights that a stage takes: name in its model -> name in the model of the earlier stage.

    Args:
        inherited: the part.
        targets: shapes of the weights of the stage, by name.
        sources: shapes of the weights of the earlier stage, by name.
        key: of the part, for messages.

    Raises:
        UserError: a part without weights, no weight in common, or weights of other shapes.
    """
    of_stage = f"weight of stage {inherited.stage!r}"
    for part, names, what in (
        (inherited.part, targets, "weight of the model"),
        (inherited.source, sources, of_stage),
    ):
        if not names_in_part(part, names):
            raise UserError(nothing_matches(part, names, key=key, what=what))
    if inherited.part == inherited.source:
        theirs = set(names_in_part(inherited.source, sources))
        pairs = {name: name for name in names_in_part(inherited.part, targets) if name in theirs}
    else:
        part, source = (ALIASES.get(name, name) for name in (inherited.part, inherited.source))
        renamed = {name: f"{source}{name.removeprefix(part)}" for name in targets if name.startswith(f"{part}.")}
        pairs = {name: other for name, other in renamed.items() if other in sources}
    if not pairs:
        ours = names_in_part(inherited.part, targets)[0]
        raise UserError(
            f"{key}: no name of {inherited.part!r} is the same in stage {inherited.stage!r}: {ours} is in this stage, "
            f"{names_in_part(inherited.source, sources)[0]} in that one. To rename, write stage:part with modules."
        )
    for name, other in pairs.items():
        if targets[name] != sources[other] and not CLASS_LAYERS.search(name):
            raise UserError(
                f"{key}: {name} is {shape_text(targets[name])} in this stage, {shape_text(sources[other])} in stage "
                f"{inherited.stage!r}. The two need the same settings."
            )
    return pairs


def check_inheritance(stages: Sequence[Stage], models: Mapping[str, ModelDescription]) -> None:
    """Refuse parts that a stage cannot take from an earlier one, and proposals of a stage that has none.

    Args:
        stages: of the run.
        models: by name of the stage; a pair with a missing one is not checked.

    Raises:
        UserError: naming the place in SOLVER.STAGES, which a ready-made schedule has written.
    """
    for number, stage in enumerate(stages):
        place = f"SOLVER.STAGES[{number}].FROM (stage {stage.name!r})"
        for inherited in stage.inherited:
            if stage.name in models and inherited.stage in models:
                targets, sources = (models[name].shapes for name in (stage.name, inherited.stage))
                inherited_names(inherited, targets, sources, key=f"{place}, {inherited.part}")
        source = models.get(stage.proposals_of)
        if source is not None and not source.proposes:
            raise UserError(
                f"{place}, proposals: the model of stage {stage.proposals_of!r} has no proposals; its "
                "MODEL.META_ARCHITECTURE must be ProposalNetwork or GeneralizedRCNN."
            )


@dataclass
class JoinedWeights:
    """Weights from several files under the names of one model."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # name -> stage or file
    classes: dict[tuple[str, ...], str] = field(default_factory=dict)  # names of the classes of last layers -> origin

    def add(self, weights: Mapping[str, Tensor], *, origin: str, class_names: tuple[str, ...]) -> None:
        """Add weights; those of the same name are replaced.

        Args:
            weights: by name in the model.
            origin: stage or file.
            class_names: of the file of the weights, by class index; empty where it has none.
        """
        self.weights |= weights
        self.origins |= dict.fromkeys(weights, origin)
        if class_names and any(CLASS_LAYERS.search(name) for name in weights):
            self.classes[class_names] = origin

    def write(self, path: Path) -> Path:
        """Write the weights as a checkpoint that `read_weights` reads.

        Args:
            path: of the file.

        Raises:
            UserError: the last layers are of different classes.
        """
        if len(self.classes) > 1:
            raise UserError(
                "the weights of the last layers are of different classes: "
                + "; ".join(f"{origin}: {', '.join(names)}" for names, origin in self.classes.items())
                + ". Take them from one stage (SOLVER.STAGES, FROM)."
            )
        class_names = [name for names in self.classes for name in names]
        content = {"model": self.weights, ORIGINS: self.origins, "class_names": class_names}
        return write_atomically(path, lambda file: torch.save(content, file))


def join_weights(
    model: nn.Module, inherited: Sequence[InheritedPart], files: Mapping[str, Path], *, base: str
) -> JoinedWeights:
    """The weights of a stage: parts of earlier stages, all others from the weights of the run as far as these fit.

    Args:
        model: of the stage, changed by the weights of the run.
        inherited: parts of earlier stages.
        files: weights of the earlier stages, by name.
        base: MODEL.WEIGHTS of the run; empty for none.

    Raises:
        UserError: see `inherited_names` and `load_weights_file`.
    """
    targets = describe_model(model).shapes
    joined = JoinedWeights()
    if base:
        file = read_weights(base)
        report = load_weights_file(model, file)
        filled = {*report.loaded, *report.converted}
        values = {name: value.cpu() for name, value in model.state_dict().items() if name in filled}
        joined.add(values, origin=file.source, class_names=stored_class_names(file))
    opened: dict[str, WeightsFile] = {}
    for part in inherited:
        if part.stage not in opened:
            opened[part.stage] = read_weights(files[part.stage])
        weights = opened[part.stage].weights
        shapes = {name: tuple(value.shape) for name, value in weights.items() if not name.endswith(COUNTER)}
        pairs = inherited_names(part, targets, shapes, key=f"FROM, {part.part}")
        joined.add(
            {name: weights[other] for name, other in pairs.items()},
            origin=f"stage {part.stage}",
            class_names=stored_class_names(opened[part.stage]),
        )
    # Class names of layers that were replaced are left out.
    remaining = {origin for name, origin in joined.origins.items() if CLASS_LAYERS.search(name)}
    joined.classes = {classes: origin for classes, origin in joined.classes.items() if origin in remaining}
    return joined
