"""Which digit is it? A convolutional network of torch on images in a Dask Array.

Install with ``pip install "dask-skdist[examples,torch]"`` and run ``python images.py``. The images are the
1,797 digits of scikit-learn, bytes of 8 x 8 pixels; they stay bytes on the workers, and each mini-batch is
scaled where it is trained on. The same cluster trains a linear model on the same pixels, to compare with.
"""

from __future__ import annotations

import time

import dask.array as da
import numpy as np
import torch
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from skdist import DistributedSGDClassifier, DistributedTorchClassifier

BRIGHTEST = 16


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Return pixels between 0 and 1."""
    return images / BRIGHTEST


def network() -> nn.Module:
    """Return a small convolutional network: one channel of 8 x 8 in, ten classes out."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def main() -> None:
    """Train both models on a cluster of two local processes, and judge them."""
    pixels, digits = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    X_train, X_test, y_train, y_test = train_test_split(images, digits, test_size=0.25, random_state=0)
    print(f"{len(X_train):,} images to train on, {len(X_test):,} to judge on")
    rows = 225  # of a partition
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        X = da.from_array(X_train, chunks=(rows, -1, -1, -1))
        y = da.from_array(y_train, chunks=rows)

        flat = X.reshape(len(X_train), -1).astype("float32")
        linear = DistributedSGDClassifier("log_loss", random_state=0).fit(flat, y)
        print(f"linear model: accuracy {linear.score(X_test.reshape(len(X_test), -1), y_test):.3f}")

        began = time.perf_counter()
        convolutional = DistributedTorchClassifier(
            network, transform=scaled, optimizer="adam", optimizer__lr=3e-3, batch_size=32, max_iter=20,
            random_state=0,
        ).fit(X, y)  # fmt: skip
        seconds = time.perf_counter() - began
        print(f"convolutional network: accuracy {convolutional.score(X_test, y_test):.3f}, {seconds:.0f} s")
        by_worker = convolutional.history_.to_frame().groupby("worker")["rows"].sum()
        print(f"rows that each worker trained: {', '.join(f'{rows:,}' for rows in by_worker)}")


if __name__ == "__main__":
    main()
