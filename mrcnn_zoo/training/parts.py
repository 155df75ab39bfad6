"""Parts of a model by the names of its weights: what SOLVER.TRAIN, SOLVER.FREEZE and stages select.

A part is one of PARTS, `5+`, `4+`, `3+`, `2+`, a glob pattern of names, or the name of a module.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tabulate import tabulate
from torch import nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import HasStages
from mrcnn_zoo.registry import did_you_mean

ALL, NOTHING, HEADS, SUPPRESSION = "all", "none", "heads", "suppression"
PARTS = (ALL, HEADS, "backbone", "proposal_generator", "rpn", "roi_heads", SUPPRESSION)
ALIASES = {"rpn": "proposal_generator"}
FROM_STAGE = re.compile(r"([2-5])\+")  # heads and the stages of the bottom-up network from this number on
BACKBONES = ("backbone", "proposal_generator.backbone")  # the latter in a SeparateRPN
BOTTOM_UP = "bottom_up"
DIVIDED = ("proposal_generator", "roi_heads")  # of which a table shows the children
COUNTER = "num_batches_tracked"  # of batch norms; frozen ones have none


def names_in_part(part: str, names: Iterable[str]) -> list[str]:
    """The names of weights that belong to a part; empty where there are none.

    Args:
        part: one of PARTS, a glob pattern, or the name of a module. `heads` are all weights but those of the bottom-up
            network, as in matterport's Mask R-CNN: the pyramid, the RPN and the region heads.
        names: of all weights of a model.
    """
    names = list(names)
    part = ALIASES.get(part, part)
    if part == ALL:
        return names
    if part == HEADS:
        bottom_up = tuple(f"{prefix}." for prefix in bottom_up_prefixes(names))
        return [name for name in names if not name.startswith(bottom_up)]
    if part == SUPPRESSION:
        return [name for name in names if SUPPRESSION in name.split(".")]
    return [name for name in names if fnmatch.fnmatchcase(name, part) or fnmatch.fnmatchcase(name, f"{part}.*")]


def bottom_up_prefixes(names: Iterable[str]) -> list[str]:
    """The names of the modules below the pyramid, e.g. "backbone.bottom_up"; "backbone" where there is no pyramid.

    Args:
        names: of all weights of a model.
    """
    names = list(names)
    found = []
    for backbone in BACKBONES:
        below = f"{backbone}.{BOTTOM_UP}"
        for prefix in (below, backbone):
            if any(name.startswith(f"{prefix}.") for name in names):
                found.append(prefix)
                break
    return found


def parameters_in_parts(model: nn.Module, parts: Sequence[str], *, key: str) -> dict[str, nn.Parameter]:
    """The parameters of a model that belong to any of some parts, by name in the order of the model.

    Args:
        model: the model.
        parts: see the top of this file.
        key: of the parts, for messages.

    Raises:
        UserError: a part without parameters.
    """
    parameters = dict(model.named_parameters())
    found: set[str] = set()
    for part in parts:
        numbered = FROM_STAGE.fullmatch(part)
        if numbered:
            found.update(_names_from_stage(model, int(numbered[1]), key=key))
            continue
        matches = names_in_part(part, parameters)
        if not matches:
            raise UserError(nothing_matches(part, parameters, key=key, what="parameter of the model"))
        found.update(matches)
    return {name: parameter for name, parameter in parameters.items() if name in found}


def _names_from_stage(model: nn.Module, first: int, *, key: str) -> Iterator[str]:
    """The heads, and the parameters of the bottom-up networks from a stage on."""
    names = [name for name, _ in model.named_parameters()]
    yield from names_in_part(HEADS, names)
    stages: set[int] = set()
    for prefix in bottom_up_prefixes(names):
        network = model.get_submodule(prefix)
        if not isinstance(network, HasStages):
            raise UserError(
                f"{key}: '{first}+' needs numbered stages, and the bottom-up network {type(network).__name__} has no "
                "method stage_of (HasStages in mrcnn_zoo/modeling/contracts.py). Name patterns instead, e.g. heads and "
                f"{prefix}.*"
            )
        start = f"{prefix}."
        own = {name: network.stage_of(name.removeprefix(start)) for name in names if name.startswith(start)}
        stages.update(own.values())
        yield from (name for name, stage in own.items() if stage >= first)
    if stages and max(stages) < first:
        raise UserError(
            f"{key}: '{first}+' matches no stage: the bottom-up network of this model has the stages "
            f"{', '.join(map(str, sorted(stages)))}. For the heads alone write {HEADS}."
        )


def nothing_matches(part: str, names: Iterable[str], *, key: str, what: str) -> str:
    """The message about a part without weights.

    Args:
        part: as given.
        names: of all weights of the model.
        key: of the part.
        what: noun of what the names are of, e.g. "parameter of the model".
    """
    names = list(names)
    # Suggest module names, too, which users name most often.
    modules = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    candidates = [*names, *(f"{module}.*" for module in sorted(modules)), *PARTS]
    top = ", ".join(sorted({f"{name.split('.')[0]}.*" for name in names}))
    near = "" if part in PARTS else did_you_mean(part, candidates)
    if part == SUPPRESSION:
        near = " Its suppression has no parameters; MODEL.ROI_HEADS.SUPPRESSION GossipNet has some."
    return f"{key}: {part!r} matches no {what}.{near} The top level has {top}."


def parts_table(model: nn.Module, origins: Mapping[str, str], *, default: str) -> str:
    """A table of the parts of a model: how large they are, whether they are trained, and their initial weights.

    Args:
        model: with frozen parameters marked.
        origins: where weights are from, by name.
        default: origin of the others.
    """
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    bottom_up = bottom_up_prefixes(state)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = {name.rpartition(".")[0] for name in trained}  # batch-norm statistics move with their parameters
    buffers = state.keys() - dict(model.named_parameters()).keys()
    rows: dict[tuple[str, str, str], list[int]] = {}
    for name, value in state.items():
        is_trained = name in trained or (name in buffers and name.rpartition(".")[0] in layers)
        row = (_shown_part(name, bottom_up), "trained" if is_trained else "frozen", origins.get(name, default))
        rows.setdefault(row, []).append(value.numel())
    return tabulate(
        [[part, len(sizes), f"{sum(sizes):,}", status, origin] for (part, status, origin), sizes in rows.items()],
        headers=["part", "tensors", "values", "", "initial weights"],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=("left", "right", "right", "left", "left"),
    )


def frozen_random_parts(model: nn.Module, origins: Mapping[str, str]) -> list[str]:
    """The rows of `parts_table` that are frozen with random weights, and so never learn anything.

    Args:
        model: with frozen parameters marked.
        origins: where weights are from, by name.
    """
    bottom_up = bottom_up_prefixes(model.state_dict())
    names = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return list(dict.fromkeys(_shown_part(name, bottom_up) for name in names if name not in origins))


def _shown_part(name: str, bottom_up: Sequence[str]) -> str:
    """The row of a weight in the table of parts, e.g. "backbone.bottom_up", "backbone", "roi_heads.mask_head"."""
    network = next((prefix for prefix in bottom_up if name.startswith(f"{prefix}.")), "")
    if network:
        return network
    if name.startswith("backbone.") and f"backbone.{BOTTOM_UP}" in bottom_up:
        return "backbone (pyramid)"
    before, selection, _ = name.partition(".selection.")  # its suppression may be trained alone
    if selection:
        return f"{before}.selection"
    modules = name.split(".")[:-1]
    return ".".join(modules[: 2 if modules[0] in DIVIDED else 1])
