"""Modules that tests train; at the top of a file, so that pickle finds them."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """Two layers."""

    def __init__(self, n_inputs=4, hidden=8, n_outputs=3):
        super().__init__()
        self.first, self.second = nn.Linear(n_inputs, hidden), nn.Linear(hidden, n_outputs)

    def forward(self, X):
        return self.second(torch.tanh(self.first(X)))


class Images(nn.Module):
    """A convolution with a BatchNorm over small images of one channel."""

    def __init__(self, n_outputs=2):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.out = nn.Linear(4, n_outputs)

    def forward(self, X):
        return self.out(torch.relu(self.norm(self.conv(X))).mean(dim=(2, 3)))


class Dropping(Net):
    """Two layers with dropout in between."""

    def forward(self, X):
        return self.second(nn.functional.dropout(torch.tanh(self.first(X)), 0.5, self.training))


def scaled(rows):
    """Turn pixels into numbers from 0 to 1."""
    return rows / 255
