"""What can go wrong beyond a plain ``ValueError`` for bad input."""

from __future__ import annotations


class SkdistError(Exception):
    """Base of all errors that are skdist's own.

    Examples
    --------
    Each is one of Python's own kinds as well:

    >>> from skdist.exceptions import NoWorkersError, SkdistError
    >>> issubclass(NoWorkersError, SkdistError) and issubclass(NoWorkersError, TimeoutError)
    True
    """


class NoWorkersError(SkdistError, TimeoutError):
    """The cluster had no worker within the time limit.

    ``dask.config.set({"skdist.worker-timeout": seconds})``, by default 30, sets it: more where jobs queue.
    """


class ServerLostError(SkdistError, RuntimeError):
    """The parameter server was lost again and again, or does not answer any more.

    One that is lost now and then is replaced. Look at the logs of the workers: memory is the usual reason.
    """


class NotBegunError(ServerLostError):
    """The parameter server has no model yet; who joins it tries again."""


class SchedulerLostError(SkdistError, ConnectionError):
    """The scheduler of the cluster does not answer any more.

    A fit with ``checkpoint=`` goes on from its file on another cluster.
    """


class DivergedError(SkdistError, FloatingPointError):
    """The loss stopped being a number although the data is finite.

    Take shorter steps, or ``learning_rate='auto'``.
    """


class UnlikeSampleError(SkdistError, ValueError):
    """Rows are not like those that were measured, and the model is not made for them.

    Users see its subclasses only: where a sample was measured, the fit begins anew with all.
    """


class UnknownLabelsError(UnlikeSampleError):
    """Rows have labels that are no class of the model.

    ``partial_fit(classes=...)`` at the first call names all that will ever come.
    """


class VisitFailedError(SkdistError, RuntimeError):
    """A visit failed again and again, for example because its worker dies each time.

    Its cause is the error of the task, where there was one; smaller partitions take less memory.
    """


class DataLostError(SkdistError, RuntimeError):
    """Partitions of the data are gone and cannot be made again.

    What was persisted goes with its workers; lazy collections and rows in memory are made again.
    """


class FitCancelledError(SkdistError, RuntimeError):
    """Somebody has cancelled futures of the fit, or the rows it trains on."""
