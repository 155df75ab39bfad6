"""The convolutions of a training step, and a whole step, with Winograd's sums and with torch's.

python -m dev.training_step convolutions                       # time and rate of each, forward and backward
python -m dev.training_step step --images ../shared/data/coco_mini/val2017 --rounds 3
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dev.inference_kernels import random_map
from mrcnn_zoo.benchmark.inputs import build_batches, calibrate_random_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.ops import winograd

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
NEVER = 10**12
# Images, input and output channels, kernel size, stride, height and width of the input: two images of 1216 x 1216.
CONVOLUTIONS = {
    "res3 conv1": (2, 512, 128, 1, 1, 152, 152),
    "res3 conv2": (2, 128, 128, 3, 1, 152, 152),
    "res3 conv3": (2, 128, 512, 1, 1, 152, 152),
    "res3.0 shortcut": (2, 256, 512, 1, 2, 304, 304),
    "res4 conv1": (2, 1024, 256, 1, 1, 76, 76),
    "res4 conv2": (2, 256, 256, 3, 1, 76, 76),
    "res4 conv3": (2, 256, 1024, 1, 1, 76, 76),
    "res4.0 conv2": (2, 256, 256, 3, 2, 152, 152),
    "res5 conv1": (2, 2048, 512, 1, 1, 38, 38),
    "res5 conv2": (2, 512, 512, 3, 1, 38, 38),
    "res5 conv3": (2, 512, 2048, 1, 1, 38, 38),
    "fpn lateral2": (2, 256, 256, 1, 1, 304, 304),
    "fpn output2, rpn": (2, 256, 256, 3, 1, 304, 304),
    "fpn output3, rpn": (2, 256, 256, 3, 1, 152, 152),
    "fpn output5, rpn": (2, 256, 256, 3, 1, 38, 38),
    "mask head, 50 regions": (50, 256, 256, 3, 1, 14, 14),
}


def clock() -> float:
    """Processor time with one thread, which other programs disturb less; else the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def print_convolutions(rounds: int) -> None:
    """The least time of each and GFLOP/s of the plain sum: forward, gradients of input and of weights, and with
    Winograd's sums forward and both gradients."""
    print(f"{'':22} forward        of input       of weights     | Winograd: forward, backward, plain / Winograd")
    for name, (images, channels, outputs, kernel, stride, height, width) in CONVOLUTIONS.items():
        features = torch.relu(random_map(images, channels, height, width)).requires_grad_()
        weight = (random_map(outputs, channels, kernel, kernel) / (channels * kernel**2) ** 0.5).requires_grad_()
        plain = _times(lambda x, w, k=kernel, s=stride: F.conv2d(x, w, None, s, k // 2), features, weight, rounds)
        work = 2e-9 * images * (height // stride) * (width // stride) * channels * outputs * kernel**2
        line = f"{name:22}" + "".join(f" {1000 * value:5.0f} ms {work / value:4.0f}" for value in plain)
        if kernel == winograd.KERNEL and stride == 1:
            forward, *backward = _times(winograd.convolve, features, weight, rounds)
            ratio = sum(plain) / (forward + sum(backward))
            line += f" | {1000 * forward:5.0f} ms, {1000 * sum(backward):5.0f} ms, {ratio:.2f}"
        print(line, flush=True)


def _times(way: Callable[[Tensor, Tensor], Tensor], features: Tensor, weight: Tensor, rounds: int) -> list[float]:
    """Forward, gradient of the input, gradient of the weight: the least seconds of each."""
    best = [float("inf")] * 3
    for _ in range(rounds):
        times = [clock()]
        result = way(features, weight.detach())
        times.append(clock())
        result.backward(result.detach(), inputs=[features])
        times.append(clock())
        result = way(features.detach(), weight)
        middle = clock()
        result.backward(result.detach(), inputs=[weight])
        spent = [times[1] - times[0], times[2] - times[1], clock() - middle]
        best = [min(pair) for pair in zip(best, spent, strict=True)]
        features.grad = weight.grad = None
    return best


@contextmanager
def plain_sums() -> Iterator[None]:
    """torch's convolutions alone."""
    least = winograd.LEAST_CELLS
    winograd.LEAST_CELLS = NEVER
    try:
        yield
    finally:
        winograd.LEAST_CELLS = least


def print_step(images: str, side: int, rounds: int) -> None:
    """Seconds of forward and backward pass in turns, and the differences of losses and gradients."""
    sizes = ["INPUT.MIN_SIZE_TEST", side, "INPUT.MAX_SIZE_TEST", side * 1333 // 800]
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", *sizes])
    batch = build_batches(cfg, images, num_batches=1, batch_size=2, is_training=True)[0]
    torch.manual_seed(0)
    model: Any = build_model(cfg)
    calibrate_random_weights(model, batch)
    model.train()
    results: dict[str, tuple[dict[str, Tensor], list[Tensor]]] = {}

    def run(name: str) -> tuple[float, float]:
        with plain_sums() if name.startswith("plain") else nullcontext():
            torch.manual_seed(1)
            model.zero_grad()
            begin = clock()
            output = model.losses(batch)
            middle = clock()
            output.total().backward()
            seconds = middle - begin, clock() - middle
        losses = {key: loss.detach() for key, loss in output.losses.items()}
        results[name] = losses, [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return seconds

    for _ in range(rounds):
        spent = {name: run(name) for name in ("plain", "Winograd")}
        ratio = sum(spent["plain"]) / sum(spent["Winograd"])
        print({name: [round(value, 2) for value in pair] for name, pair in spent.items()}, f"ratio {ratio:.2f}")
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))  # the rounding of another number of threads, to compare
    run("plain, other threads")
    losses, gradients = results.pop("plain")
    for name, (other_losses, others) in results.items():
        print(f"differences from plain with {threads} threads: {name}")
        print(", ".join(f"{key} {abs(float(other_losses[key] / loss) - 1):.1e}" for key, loss in losses.items()))
        norms = [float((a - b).norm() / a.norm().clamp(min=1e-12)) for a, b in zip(gradients, others, strict=True)]
        median = sorted(norms)[len(norms) // 2]
        print(f"gradients: norm of the difference / norm, largest {max(norms):.1e}, median {median:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("convolutions", "step"))
    parser.add_argument("--images", default="../shared/data/coco_mini/val2017")
    parser.add_argument("--side", type=int, default=800, help="of the images; default 800")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.part == "convolutions":
        print_convolutions(args.rounds)
    else:
        print_step(args.images, args.side, args.rounds)


if __name__ == "__main__":
    main()
