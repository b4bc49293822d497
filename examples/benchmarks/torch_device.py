"""Rows per second of modules beside a plain loop of torch: on a GPU, or on the processor where there is none.

``SKDIST_DATA=folder python torch_device.py [--repeat 3]`` prints two Markdown tables. The folder holds
fashion_mnist.npz; without it, random rows of that shape stand in for it.

The first one has passes over all rows, medians of several, all columns in turn. Both plain loops train the
same module with the same optimizer and mini-batches, one with the rows in the memory of the processor, as a
DataLoader hands them out, one with all rows on the device. Ours is what a pass adds to a fit, in this process
and on a cluster of one worker, which computes with one thread where there is no GPU; ``autocast`` is ours in
this process in bfloat16.

The second one has a cluster of a worker that sees the GPU and workers that do not: what each of them trains.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import torch
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster, wait
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch_mlp import load

from skdist import DistributedTorchClassifier

RATE, MOMENTUM, CLASSES = 0.01, 0.9, 10


class Case(NamedTuple):
    """A module and how it is trained."""

    name: str
    make: Callable[[], nn.Module]
    batch: int
    image: bool = False


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear layers from pixels to classes."""
    edges = [784, *widths]
    layers = [part for fan in itertools.pairwise(edges) for part in (nn.Linear(*fan), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(edges[-1], CLASSES))


def convolution() -> nn.Sequential:
    """Return a small network for images of one channel."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    )  # fmt: skip


CASES = (
    Case("784-256-10, 64 rows a step", lambda: perceptron(256), 64),
    Case("784-256-10, 1024 rows", lambda: perceptron(256), 1024),
    Case("784-4096-4096-10, 1024 rows", lambda: perceptron(4096, 4096), 1024),
    Case("2 convolutions, 128 rows", convolution, 128, image=True),
)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain(case: Case, X: np.ndarray, y: np.ndarray, device: torch.device, resident: bool) -> float:
    """Return the seconds of a pass of a loop as tutorials have it, the second of two."""
    torch.manual_seed(0)
    module = case.make().to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    rows, labels = torch.from_numpy(X), torch.from_numpy(y)
    if resident:
        rows, labels = rows.to(device), labels.to(device)
    loss_of, seconds = nn.CrossEntropyLoss(), 0.0
    for _ in range(2):
        synchronise(device)
        began = time.perf_counter()
        for chosen in torch.randperm(len(rows), device=rows.device).split(case.batch):
            batch, target = rows[chosen], labels[chosen]
            if device.type == "cuda" and not resident:
                batch = batch.pin_memory().to(device, non_blocking=True)
                target = target.to(device, non_blocking=True)
            optimizer.zero_grad()
            loss_of(module(batch), target).backward()
            optimizer.step()
        synchronise(device)
        seconds = time.perf_counter() - began
    return seconds


def ours(case: Case, X: Any, y: Any, passes: int, client: Client | None = None, **params: Any) -> float:
    """Return the seconds that a pass adds to a fit."""

    def seconds(count: int) -> float:
        clf = classifier(case, max_iter=count, client=client, **params)
        began = time.perf_counter()
        clf.fit(X, y)
        return time.perf_counter() - began

    seconds(1)  # starts the device
    return (seconds(1 + passes) - seconds(1)) / passes


def classifier(case: Case, **params: Any) -> DistributedTorchClassifier:
    """Return the estimator of a case."""
    return DistributedTorchClassifier(
        case.make(), optimizer__lr=RATE, optimizer__momentum=MOMENTUM, batch_size=case.batch, tol=None,
        random_state=0, **params,
    )  # fmt: skip


def on_cluster(X: np.ndarray, y: np.ndarray, parts: int) -> tuple[Any, Any]:
    """Return rows on the workers."""
    rows = -(-len(X) // parts)
    dX = da.from_array(X, chunks=(rows, *X.shape[1:])).persist()
    dy = da.from_array(y, chunks=rows).persist()
    wait([dX, dy])
    return dX, dy


def beside_torch(X: np.ndarray, y: np.ndarray, device: torch.device, repeat: int, passes: int) -> None:
    """Print the table of passes."""
    print("| module | plain loop | rows on the device | ours | on a cluster | autocast |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        rows = X.reshape(-1, 1, 28, 28) if case.image else X
        times: list[list[float]] = [[] for _ in range(5)]
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            with client.as_current():
                dX, dy = on_cluster(rows, y, 4)
            for _ in range(repeat):
                found = (
                    plain(case, rows, y, device, resident=False),
                    plain(case, rows, y, device, resident=True),
                    ours(case, rows, y, passes),
                    ours(case, dX, dy, passes, client),
                    ours(case, rows, y, passes, autocast=True),
                )
                for column, seconds in zip(times, found, strict=True):
                    column.append(seconds)
        speeds = (f"{len(rows) / statistics.median(column):,.0f}" for column in times)
        print(f"| {case.name} | {' | '.join(speeds)} |", flush=True)


def mixed_workers(X: np.ndarray, y: np.ndarray, case: Case, blind: int, passes: int) -> None:
    """Print the table of a cluster of which one worker sees the GPU."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    spec = {
        str(number): {
            "cls": Nanny,
            "options": {"nthreads": 1, "memory_limit": 0, "env": hidden if number else {}},
        }
        for number in range(1 + blind)
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": ":0"}}
    with (
        SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.WARNING) as cluster,
        Client(cluster) as client,
    ):
        dX, dy = on_cluster(X, y, 4 * (1 + blind))
        seen = client.run(torch.cuda.device_count)
        clf = classifier(case, max_iter=passes).fit(dX, dy)
    rounds, visits = clf.history_.to_frame("rounds"), clf.history_.to_frame("visits")
    print("\n| worker | visits | rows | of all | median round | rows per second |")
    print("|---|---|---|---|---|---|")
    for worker, theirs in visits.groupby("worker"):
        own = rounds[rounds["worker"] == worker]
        print(
            f"| {'GPU' if seen[worker] else 'processor'} | {theirs['visit'].nunique()} "
            f"| {theirs['rows'].sum():,} | {theirs['rows'].sum() / visits['rows'].sum():.1%} "
            f"| {own['rows'].median():,.0f} | {own['rows'].sum() / own['seconds_compute'].sum():,.0f} |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3, help="runs of each")
    parser.add_argument("--passes", type=int, default=4, help="passes of a fit that is timed")
    parser.add_argument("--rows", type=int, default=60_000, help="rows, at most")
    parser.add_argument("--blind", type=int, default=2, help="workers that do not see the GPU")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    folder = os.environ.get("SKDIST_DATA")
    if folder is None:
        rng = np.random.default_rng(0)
        X = rng.random((options.rows, 784), dtype=np.float32)
        y = rng.integers(0, CLASSES, options.rows)
    else:
        data = load(folder)
        X, y = data.X[: options.rows], data.y[: options.rows]
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"Rows per second, {len(X):,} rows, torch {torch.__version__}, {name}.\n")
    beside_torch(X, y, device, options.repeat, options.passes)
    if device.type == "cuda":
        mixed_workers(X, y, CASES[0], options.blind, 4 * options.passes)


if __name__ == "__main__":
    main()
