"""The feature maps that regions are pooled from, and the boxes that say where."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, Proposals


def boxes_of(tables: Sequence[Proposals] | Sequence[LabeledRegions] | Sequence[Detections]) -> list[Tensor]:
    """The boxes of each image."""
    return [table.boxes for table in tables]


def contiguous_features(features: Features, names: Iterable[str]) -> dict[str, Tensor]:
    """The maps, the named ones contiguous as pooling reads them, so that no pooler has to copy them again."""
    return {**features, **{name: features[name].contiguous() for name in names}}


def named_specs(
    specs: Mapping[str, FeatureSpec], in_features: Sequence[str], *, key: str = "MODEL.ROI_HEADS.IN_FEATURES"
) -> dict[str, FeatureSpec]:
    """Those maps of the backbone that the key lists, in its order.

    Raises:
        UserError: the list is empty or names a map that the backbone does not return.
    """
    maps = {name: specs[name] for name in in_features if name in specs}
    if not maps or len(maps) < len(in_features):
        raise UserError(f"{key} = {list(in_features)} should name maps of the backbone: {', '.join(specs)}.")
    return maps
