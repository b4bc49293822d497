"""A perceptron on fashion-mnist: ours, torch alone, torch's DDP and scikit-learn, in one run on one machine.

``SKDIST_DATA=folder python torch_mlp.py [--seeds 5]`` prints two Markdown tables. The folder holds
fashion_mnist.npz; without it, digits stand in for it and the goal is that of ``--goal``.

The first table has the time to a test accuracy: medians over seeds, all runs of a seed in turn. All train the
same architecture from the same kind of initial weights with SGD of the same step size, momentum and
mini-batch, one torch thread per process; epochs are judged outside the clock. Ours includes what a fit does
before its first step. The slow worker takes three times as long for each of its steps.

The second one has fits of scikit-learn's MLPClassifier and ours in this process, with the same parameters.
scikit-learn is given one BLAS thread and all of them, and ours one learner and one for each processor; the
faster ones of both are compared. "of a core" compares the time that processors worked for ours and for
scikit-learn's with one thread, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import torch
import torch.distributed as dist
from distributed import Client, LocalCluster, wait
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from skdist import DistributedMLPClassifier
from skdist.models.torch.mlp import perceptron
from skdist.models.torch.randomness import seeded
from skdist.testing import slow_down

BATCH, RATE, MOMENTUM, HIDDEN, SLOWER = 64, 0.02, 0.9, 256, 3

#: Rows of a standard round: an exchange of 0.8 MB takes the processor as long as some 400 rows.
ROUND = 8192


class Data(NamedTuple):
    """Rows scaled to [0, 1], and labels."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load(folder: str | None) -> Data:
    """Return fashion-mnist, or digits where there is no folder."""
    if folder is None:
        X, y = load_digits(return_X_y=True)
        parts = train_test_split((X / 16).astype(np.float32), y, random_state=0)
        return Data(parts[0], parts[2], parts[1], parts[3])
    stored = np.load(Path(folder) / "fashion_mnist.npz")
    X, X_test = (
        (stored[name].reshape(len(stored[name]), -1) / 255).astype(np.float32)
        for name in ("X_train", "X_test")
    )
    return Data(X, stored["y_train"].astype(np.int64), X_test, stored["y_test"].astype(np.int64))


def accuracy(module: nn.Module, data: Data) -> float:
    """Return the share of the test rows that a module gets right."""
    with torch.inference_mode():
        return float((module(torch.from_numpy(data.X_test)).argmax(1).numpy() == data.y_test).mean())


def build(data: Data, seed: int) -> nn.Module:
    """Return a module with initial weights."""
    return seeded(lambda: perceptron([data.X.shape[1], HIDDEN, int(data.y.max()) + 1], "relu"), seed)


def epoch_of(module: nn.Module, optimizer: Any, X: Any, y: Any, order: Any, pause: float = 0.0) -> None:
    """Train a pass as tutorials do; wait in each step where a slow worker would still compute."""
    loss_of = nn.CrossEntropyLoss()
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        optimizer.zero_grad()
        loss = loss_of(module(X[rows]), y[rows])
        time.sleep(pause) if pause else None
        loss.backward()
        optimizer.step()


def torch_alone(data: Data, goal: float, seed: int, epochs: int) -> float:
    """Return the seconds to the goal of one process and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module, (X, y) = build(data, seed), (torch.from_numpy(data.X), torch.from_numpy(data.y))
        optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
        generator, seconds = torch.Generator().manual_seed(seed), 0.0
        for _ in range(epochs):
            began = time.perf_counter()
            epoch_of(module, optimizer, X, y, torch.randperm(len(X), generator=generator))
            seconds += time.perf_counter() - began
            if accuracy(module, data) >= goal:
                return seconds
    finally:
        torch.set_num_threads(threads)
    return float("nan")


def ddp_process(rank: int, folder: str, data: Data, goal: float, seed: int, epochs: int, slower: int) -> None:
    """Train as one of two processes; the first one writes the seconds down."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    module = DistributedDataParallel(build(data, seed))
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    X, y = torch.from_numpy(data.X[rank::2]), torch.from_numpy(data.y[rank::2])
    generator, seconds, reached = torch.Generator().manual_seed(seed), 0.0, torch.zeros(1)
    pause = 0.0
    if slower > 1 and rank == 1:  # what a step takes without the others
        alone = build(data, seed)
        steps = torch.arange(50 * BATCH) % len(X)
        began = time.perf_counter()
        epoch_of(alone, torch.optim.SGD(alone.parameters(), lr=RATE, momentum=MOMENTUM), X, y, steps)
        pause = (slower - 1) * (time.perf_counter() - began) / 50
    count = min(len(data.X[part::2]) for part in (0, 1))
    for _ in range(epochs):
        dist.barrier()
        began = time.perf_counter()
        epoch_of(module, optimizer, X, y, torch.randperm(count, generator=generator), pause)
        dist.barrier()
        seconds += time.perf_counter() - began
        if rank == 0:
            reached[0] = accuracy(module.module, data) >= goal
        dist.broadcast(reached, 0)
        if reached:
            break
    if rank == 0:
        Path(folder, "seconds").write_text(str(seconds if reached else float("nan")))
    dist.destroy_process_group()


def ddp(data: Data, goal: float, seed: int, epochs: int, slower: int = 1) -> float:
    """Return the seconds to the goal of two processes with gloo, their start not counted."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(ddp_process, (folder, data, goal, seed, epochs, slower), nprocs=2)
        return float(Path(folder, "seconds").read_text())


class Recorder:
    """Keeps the module and the time of each epoch."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seen: list[tuple[float, nn.Module]] = []

    def setup(self, estimator: Any, context: Any) -> None:
        """Do nothing yet."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing any more."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing yet."""

    def on_fit_task_end(self, estimator: Any, context: Any, *, fitted_estimator: Any = None) -> None:
        """Take in an epoch."""
        if context.task_name == "epoch" and fitted_estimator is not None:
            self.seen.append((time.perf_counter() - self.began, fitted_estimator.module_))


def ours(client: Client, X: Any, y: Any, data: Data, goal: float, seed: int, epochs: int) -> float:
    """Return the seconds to the goal of a fit on two processes."""
    clf = DistributedMLPClassifier(
        (HIDDEN,), solver="sgd", learning_rate_init=RATE, momentum=MOMENTUM, nesterovs_momentum=False,
        alpha=0, round_size=ROUND, batch_size=BATCH, max_iter=epochs, tol=None, random_state=seed,
        client=client,
    )  # fmt: skip
    recorder = Recorder()
    clf.set_callbacks(recorder).fit(X, y)
    times = [seconds for seconds, module in recorder.seen if accuracy(module, data) >= goal]
    return times[0] if times else float("nan")


def race(data: Data, goal: float, seeds: int, epochs: int) -> None:
    """Print the table of times to an accuracy."""
    names = ["torch alone", "DDP", "ours", f"DDP, one {SLOWER}x slower", f"ours, one {SLOWER}x slower"]
    times: dict[str, list[float]] = {name: [] for name in names}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        rows = -(-len(data.X) // 8)
        X, y = (
            da.from_array(data.X, chunks=(rows, -1)).persist(),
            da.from_array(data.y, chunks=rows).persist(),
        )
        wait([X, y])
        slow = next(iter(client.scheduler_info()["workers"]))
        ours(client, X, y, data, goal, 0, 1)  # compiles and imports
        for seed in range(seeds):
            times[names[0]].append(torch_alone(data, goal, seed, epochs))
            times[names[1]].append(ddp(data, goal, seed, epochs))
            times[names[2]].append(ours(client, X, y, data, goal, seed, epochs))
            times[names[3]].append(ddp(data, goal, seed, epochs, SLOWER))
            slow_down(client, slow, SLOWER)
            times[names[4]].append(ours(client, X, y, data, goal, seed, epochs))
            slow_down(client, slow, 1)
            print(
                f"seed {seed}: { ({name: round(values[-1], 2) for name, values in times.items()}) }",
                flush=True,
            )
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n| to {goal} | seconds, median of {seeds} | ours is faster by | goal |\n|---|---|---|---|")
    for name, mine, wanted in (
        (names[0], names[2], 1.6), (names[1], names[2], 3.0), (names[3], names[4], 5.0)
    ):  # fmt: skip
        print(f"| {name} | {medians[name]:.2f} | {medians[name] / medians[mine]:.2f}x | {wanted:g}x |")
        print(f"| {mine} | {medians[mine]:.2f} | | |")


def fit_seconds(model: Any, X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the seconds of a fit, and those that processors worked for it."""
    began, worked = time.perf_counter(), time.process_time()
    model.fit(X, y)
    return time.perf_counter() - began, time.process_time() - worked


def beside_sklearn(data: Data, seeds: int) -> None:
    """Print the table of fits in this process."""
    X, y = load_digits(return_X_y=True)
    parts = train_test_split(X / 16, y, random_state=0)
    passes = {"max_iter": 5, "n_iter_no_change": 10**6}
    sets: dict[str, tuple[Data, dict[str, Any]]] = {
        "digits, 100 hidden": (Data(parts[0], parts[2], parts[1], parts[3]), {}),
        f"fashion-mnist, {HIDDEN} hidden, 5 passes": (data, {"hidden_layer_sizes": (HIDDEN,), **passes}),
    }
    print(
        "\n| data | theirs, one thread | all threads | ours, one learner | all | faster by | of a core "
        "| our accuracy | with all | theirs |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    DistributedMLPClassifier(max_iter=1).fit(X, y)  # compiles
    for name, (rows, params) in sets.items():
        seconds: list[list[tuple[float, float]]] = [[], [], [], []]
        scores: list[list[float]] = [[], [], []]
        for seed in range(seeds):
            mine, ours_all = (
                DistributedMLPClassifier(**params, random_state=seed, n_jobs=n_jobs) for n_jobs in (1, -1)
            )
            single, several = (MLPClassifier(**params, random_state=seed) for _ in range(2))
            with threadpool_limits(1):
                seconds[0].append(fit_seconds(single, rows.X, rows.y))
            for place, model in enumerate((several, mine, ours_all), 1):
                seconds[place].append(fit_seconds(model, rows.X, rows.y))
            for place, model in enumerate((mine, ours_all, single)):
                scores[place].append(model.score(rows.X_test, rows.y_test))
        (one, worked), (more, _), (own, mine_worked), (both, _) = (
            np.median(part, axis=0) for part in seconds
        )
        accuracies = " | ".join(f"{statistics.mean(part):.4f}" for part in scores)
        print(
            f"| {name} | {one:.2f} | {more:.2f} | {own:.2f} | {both:.2f} "
            f"| {min(one, more) / min(own, both):.2f}x | {worked / mine_worked:.2f}x | {accuracies} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="runs of each")
    parser.add_argument("--goal", type=float, default=0.87, help="test accuracy to reach")
    parser.add_argument("--epochs", type=int, default=15, help="passes at most")
    parser.add_argument("--only", choices=("race", "sklearn"), help="one of the tables")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = load(os.environ.get("SKDIST_DATA"))
    if options.only != "sklearn":
        race(data, options.goal, options.seeds, options.epochs)
    if options.only != "race":
        beside_sklearn(data, options.seeds)


if __name__ == "__main__":
    main()
