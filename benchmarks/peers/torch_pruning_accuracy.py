"""What accuracy is left after channels are removed with Torch-Pruning, in PyTorch.

    python -m benchmarks.peers.torch_pruning_accuracy --suite dense \
        --out benchmarks/results/torch_pruning_accuracy.json
    python -m benchmarks.peers.torch_pruning_accuracy --suite pruned \
        --out benchmarks/results/torch_pruning_accuracy.json

The protocol of `benchmarks/structured_accuracy.py`: the same network with the padding,
initial weights, BatchNormalization and Adam of Keras; Torch-Pruning removes channels by
group magnitude, in small steps until the budget is met. Needs an environment with
torch, torch-pruning and numpy; neither Keras nor kprune. 80 minutes for three seeds on
one core.
"""

import copy
import gzip
import math
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import nn

import kprune_machine
from benchmarks import fashion_mnist
from benchmarks.fashion_mnist import (
    BATCH_SIZE,
    QUICK_TEST,
    QUICK_TRAIN,
    VALIDATION,
    WARM_UP,
    Phase,
    Results,
    StructuredRun,
    few,
)

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
DENSE = (Phase(8, 2e-3), Phase(8, 2e-3))
SUITES = {
    "dense": (StructuredRun("resnet8", DENSE),),
    "pruned": tuple(
        StructuredRun("resnet8", DENSE, macs=share, how="Torch-Pruning")
        for share in (0.5, 0.25)
    ),
}
# Versions that the results hold.
kprune_machine.PACKAGES = ("torch", "torch-pruning", "numpy")


class Convolution(nn.Sequential):
    """A convolution that pads like Keras's `padding="same"`: below and right first."""

    def __init__(self, channels: int, filters: int, kernel: int, strides: int) -> None:
        total = max(kernel - strides, 0)  # Sizes here are multiples of the strides.
        before, after = total // 2, total - total // 2
        super().__init__(
            nn.ZeroPad2d((before, after, before, after)),
            nn.Conv2d(channels, filters, kernel, strides),
        )


def normalisation(channels: int) -> nn.BatchNorm2d:
    """Returns BatchNormalization with the constants of Keras."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """A residual block, its shortcut a convolution where it strides."""

    def __init__(self, channels: int, filters: int, strides: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Convolution(channels, filters, 3, strides),
            normalisation(filters),
            nn.ReLU(),
            Convolution(filters, filters, 3, 1),
            normalisation(filters),
        )
        self.shortcut = (
            Convolution(channels, filters, 1, strides) if strides > 1 else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        return torch.relu(self.shortcut(x) + self.residual(x))


def resnet8() -> nn.Sequential:
    """Returns the network of `fashion_mnist.resnet8`."""
    first, second, third = fashion_mnist.RESNET8_WIDTHS
    model = nn.Sequential(
        Convolution(1, first, 3, 1),
        normalisation(first),
        nn.ReLU(),
        Block(first, first, 1),
        Block(first, second, 2),
        Block(second, third, 2),
        nn.AvgPool2d(7),
        nn.Flatten(),
        nn.Linear(third, 10),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def macs(model: nn.Module) -> int:
    """Returns the multiplications of convolutions and dense layers, for one image."""
    counts = []

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        counts.append(module.weight.numel() * math.prod(output.shape[2:]))

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def shrink(model: nn.Module, share: float) -> nn.Module:
    """Returns a copy of which group after group is pruned until the budget is met."""
    small = copy.deepcopy(model)
    most = share * macs(model)
    pruner = torch_pruning.pruner.BasePruner(
        small,
        torch.zeros(1, 1, 28, 28),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.9,
        iterative_steps=200,  # Each finer than one channel.
        ignored_layers=[small[-1]],
    )
    while True:
        for group in pruner.step(interactive=True):
            group.prune()
            if macs(small) <= most:
                return small


class Trainer:
    """`fashion_mnist.Trainer` in PyTorch."""

    def __init__(self, folder: Path, validation: bool, quick: bool) -> None:
        self.folder, self.validation = folder, validation
        train, test = load("train"), load("t10k")
        if quick:
            train, test = few(train, QUICK_TRAIN), few(test, QUICK_TEST)
        if validation:
            test = train[0][-VALIDATION:], train[1][-VALIDATION:]
            train = train[0][:-VALIDATION], train[1][:-VALIDATION]
        self.x, self.y = map(torch.from_numpy, train)
        self.x_test, self.y_test = torch.from_numpy(test[0]), test[1]
        self.steps = -(-len(self.x) // BATCH_SIZE)

    def fit(self, model: nn.Module, phase: Phase, seed: int) -> None:
        """Trains a model, with a fresh optimizer and the seed's order of batches."""
        generator = torch.Generator().manual_seed(seed)
        warm_up = int(WARM_UP * self.steps)
        decay = phase.epochs * self.steps - warm_up

        def rate(step: int) -> float:
            if step < warm_up:
                return step / warm_up
            return (1 + math.cos(math.pi * min((step - warm_up) / decay, 1))) / 2

        optimizer = torch.optim.Adam(model.parameters(), lr=phase.peak, eps=1e-7)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        model.train().to(memory_format=torch.channels_last)  # The faster one.
        for epoch in range(phase.epochs):
            started, total = time.perf_counter(), 0.0
            for batch in torch.randperm(len(self.x), generator=generator).split(
                BATCH_SIZE
            ):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(self.x[batch]), self.y[batch])
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item()
            seconds = time.perf_counter() - started
            print(f"{epoch + 1}: {seconds:.0f}s, {total / self.steps:.4f}", flush=True)

    def first_phase(self, run: StructuredRun, seed: int) -> nn.Module:
        """Returns the dense network after the run's first phase."""
        phase = run.phases[0]
        torch.manual_seed(seed)
        model = resnet8()
        split = "_validation" if self.validation else ""
        name = f"torch_{run.net}_{phase.epochs}_{phase.peak}_seed{seed}{split}.pt"
        path = self.folder / name
        if path.exists():
            model.load_state_dict(torch.load(path))
        else:
            self.fit(model, phase, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), path)
        return model

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        """Returns the accuracy in percent."""
        model.eval()
        found = torch.cat(
            [model(images).argmax(-1) for images in self.x_test.split(500)]
        )
        return round(100 * float(np.mean(found.numpy() == self.y_test)), 2)


def load(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels from where Keras keeps them, or from where it does."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    arrays = []
    for name, header in ((f"{part}-images-idx3", 16), (f"{part}-labels-idx1", 8)):
        path = home / "datasets" / "fashion-mnist" / f"{name}-ubyte.gz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            urllib.request.urlretrieve(URL + path.name, path)
        with gzip.open(path) as file:
            arrays.append(np.frombuffer(file.read(), np.uint8, offset=header))
    images, labels = arrays
    return (
        images.reshape(-1, 1, 28, 28).astype("float32") / 255,
        labels.astype("int64"),
    )


def facts(trainer: Trainer, model: nn.Module) -> dict[str, Any]:
    """Returns the columns of a row."""
    left = macs(model)
    dense = fashion_mnist.resnet8_macs(fashion_mnist.RESNET8_WIDTHS)
    return {
        "accuracy": trainer.score(model),
        "parameters": sum(t.numel() for t in model.state_dict().values() if t.ndim),
        "mac_count": left,
        "macs_left": round(left / dense, 4),
        "widths": [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)],
    }


def main() -> None:
    args = fashion_mnist.options(__doc__, tuple(SUITES))
    trainer = Trainer(args.weights, args.validation, args.quick)
    results = Results(
        "peers.torch_pruning_accuracy", args, fashion_mnist.structured_means
    )
    for seed in args.seeds:
        for run in fashion_mnist.chosen(SUITES, args):
            if results.has(run, seed):
                continue
            started = time.perf_counter()
            model = trainer.first_phase(run, seed)
            if run.how:
                model = shrink(model, run.macs)
            trainer.fit(model, run.phases[1], seed + 1000)
            results.add(run, seed, started, facts(trainer, model))
    results.write(results.rows())
    for row in fashion_mnist.structured_means(results.rows()):
        print(row)


if __name__ == "__main__":
    main()
