"""Contrastive learning on a toy: python examples/two_moons.py [FIGURE.png]. No picture, no label, half a minute.

Two noisy copies of a point are its views; NT-Xent (SimCLR) pulls them together and pushes the other points away. The
representation is an angle, a point of the unit circle, so that it can be drawn. No line divides the two moons in the
plane; what is learnt lays each moon along an arc of its own, which a line does divide. Labels serve the measurement
alone: a logistic regression on the points, on an untrained network's angles and on a trained one's.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.evaluate.linear import logistic
from selfsight.evaluate.moons import two_moons
from selfsight.losses import nt_xent

JITTER, TEMPERATURE, STEPS, BATCH, WIDTH = 0.1, 0.5, 500, 256, 128


def learn(points: Tensor, seed: int, steps: int = STEPS) -> nn.Module:
    """A network that learnt from points (N, 2) alone: (n, 2) -> (n, 2), to be put on the unit circle."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        some = points[torch.randint(len(points), (BATCH,))]
        first, second = (net(some + JITTER * torch.randn_like(some)) for _ in range(2))
        loss = nt_xent(first, second, TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def on_circle(net: nn.Module, points: Tensor) -> Tensor:
    """What the network makes of points (n, 2): (n, 2) of length 1."""
    with torch.no_grad():
        return F.normalize(net(points), dim=1)


def measure(seed: int, steps: int = STEPS) -> dict[str, float]:
    """Accuracy of a linear probe on the test points: of coordinates, of an untrained network, of a trained one."""
    train, labels, test, test_labels, *_ = two_moons()
    assert train is not None
    assert labels is not None
    assert test_labels is not None
    found = {"coordinates": float(logistic(train, labels, test, test_labels)["top1"])}
    for name, length in (("untrained", 0), ("contrastive", steps)):
        net = learn(train, seed, length)
        found[name] = float(logistic(on_circle(net, train), labels, on_circle(net, test), test_labels)["top1"])
    return found


def figure(file: Path, seed: int = 0) -> None:
    """The points, and their angles before and after training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train, labels, *_ = two_moons()
    assert train is not None
    assert labels is not None
    found = {"points": train}
    for name, length in (("untrained network", 0), ("after contrastive learning", STEPS)):
        found[name] = on_circle(learn(train, seed, length), train)
    drawn, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    for axis, (name, places) in zip(axes, found.items()):
        # on the circle each moon gets a ring of its own, so that none hides the other
        radius = torch.ones(len(places)) if name == "points" else 1 - 0.12 * labels
        for moon, colour in enumerate(("#0072b2", "#d55e00")):
            x, y = (places * radius[:, None])[labels == moon].T
            axis.scatter(x, y, s=6, color=colour, alpha=0.5, linewidths=0, label=("upper moon", "lower moon")[moon])
        axis.set_title(name)
        axis.set_aspect("equal")
        if name != "points":
            axis.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
    axes[0].legend(loc="lower left", frameon=False, fontsize=8)
    drawn.savefig(file, dpi=110)


def main() -> None:
    """Three seeds, and the figure if it is asked for."""
    found = [measure(seed) for seed in range(3)]
    for name in found[0]:
        values = [100 * one[name] for one in found]
        print(f"{name:<12} {statistics.mean(values):5.1f} % ({', '.join(f'{value:.1f}' for value in values)})")
    if sys.argv[1:]:
        figure(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
