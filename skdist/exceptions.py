"""What can go wrong beyond a plain ``ValueError`` for bad input."""

from __future__ import annotations


class SkdistError(Exception):
    """Base of all errors that are skdist's own."""


class NoWorkersError(SkdistError, TimeoutError):
    """The cluster had no worker within the time limit."""


class ServerLostError(SkdistError, RuntimeError):
    """The parameter server does not answer any more."""


class SchedulerLostError(SkdistError, ConnectionError):
    """The scheduler of the cluster does not answer any more."""


class DivergedError(SkdistError, FloatingPointError):
    """The loss stopped being a number although the data is finite."""


class UnlikeSampleError(SkdistError, ValueError):
    """Rows are not like those that were measured, and the model is not made for them."""


class UnknownLabelsError(UnlikeSampleError):
    """Rows have labels that are no class of the model."""


class VisitFailedError(SkdistError, RuntimeError):
    """A visit failed again and again, for example because its worker dies each time."""


class DataLostError(SkdistError, RuntimeError):
    """Partitions of the data are gone and cannot be made again."""


class FitCancelledError(SkdistError, RuntimeError):
    """Somebody has cancelled futures of the fit, or the rows it trains on."""
