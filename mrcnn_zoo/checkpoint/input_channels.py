"""The first convolution of a network for images with another number of channels."""

import re

import torch
from torch import Tensor

from mrcnn_zoo.checkpoint.report import Shape

STEM = re.compile(r"(^|\.)stem\.conv1\.weight$")


def differs_in_input_channels(name: str, theirs: Shape, ours: Shape, *, input_channels: int) -> bool:
    """Whether a weight is the one that looks at the image, and fits but for the number of its channels.

    Args:
        name: of the weight in the model.
        theirs: its shape in the file.
        ours: its shape in the model.
        input_channels: of the images that the model takes; 0 when unknown, then it is told by the name of the stem.
    """
    looks_at_image = STEM.search(name) or ("backbone" in name and ours[1:2] == (input_channels,))
    if not looks_at_image or len(theirs) != 4 or len(ours) != 4:
        return False
    return theirs[1] != ours[1] and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:])


def with_input_channels(weight: Tensor, channels: int) -> Tensor:
    """The same filters for images with another number of channels.

    More channels: they repeat the old ones in turn, and an old channel's weight is shared out evenly among its copies.
    Fewer: the weights of the old channels that fall together are added. Either way a grey image, equal in all channels,
    gets the same response as before.

    Args:
        weight: (D, C, h, w).
        channels: at least 1.
    """
    old = weight.shape[1]
    if channels <= old:
        result = weight.new_zeros((len(weight), channels, *weight.shape[2:]))
        return result.index_add_(1, torch.arange(old) % channels, weight)
    origin = torch.arange(channels) % old
    copies = torch.bincount(origin, minlength=old).to(weight.dtype)
    return (weight / copies[:, None, None])[:, origin]
