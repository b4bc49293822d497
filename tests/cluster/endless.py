"""Fits without end, to be watched, disturbed and stopped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from skdist import DistributedSGDClassifier
from skdist.testing import on_servers
from tests.cluster.conftest import wait_for

STOP_SECONDS = 60


class EndlessFit:
    """A fit in a thread, which is stopped at the end of the context at the latest.

    Parameters
    ----------
    client : Client
        Of the cluster.
    rows : tuple
        What is fitted.
    **parameters : dict
        Of the classifier.
    """

    def __init__(self, client, rows, **parameters):
        self.client = client
        self.classifier = DistributedSGDClassifier(
            "log_loss",
            random_state=0,
            client=client,
            **{"max_iter": 10_000_000, "tol": None, "round_size": 1_000, **parameters},
        )
        self._pool = ThreadPoolExecutor(1)
        self._fit = self._pool.submit(self.classifier.fit, *rows)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        # There may be nothing to stop yet, and a server may be on its way from one worker to another.
        wait_for(lambda: self._fit.done() or (on_servers(self.client, "stop") and False), STOP_SECONDS)
        self._pool.shutdown()

    def wait_for(self, condition, seconds=60.0, what="the condition"):
        """Wait for a condition; fail where the fit ends before."""

        def holds():
            if self._fit.done():
                self._fit.result()
                raise AssertionError("the fit has ended before it was stopped")
            return condition()

        return wait_for(holds, seconds, what)

    def wait_for_epochs(self, count):
        """Wait until so many epochs more have begun, of the most advanced fit of the cluster."""

        def epochs():
            return max((epoch for epoch, *_ in on_servers(self.client, "progress")), default=-1)

        self.wait_for(lambda: epochs() >= 0)
        before = epochs()
        self.wait_for(lambda: epochs() >= before + count)

    def wait_for_workers(self, count):
        """Wait until so many workers have trained."""
        seen = set()

        def all_seen():
            seen.update(address for address, trains in self.client.run(trains_now).items() if trains)
            return len(seen) >= count

        self.wait_for(all_seen)
        self.wait_for_epochs(2)  # an epoch ends with its visits

    @property
    def ended(self):
        """Whether the fit has ended."""
        return self._fit.done()

    def error(self, seconds=STOP_SECONDS):
        """Return the error with which the fit ends."""
        return self._fit.exception(seconds)

    def stop(self):
        """End all fits of the cluster; return the workers that trained, in the order in which they came."""
        self.__exit__()
        history, n_rows = self._fit.result().history_, self.classifier.history_.epochs[0].rows
        assert [epoch.rows for epoch in history.epochs] == [n_rows] * self.classifier.n_iter_
        assert history.to_frame("visits").rows.sum() == n_rows * self.classifier.n_iter_
        return history.to_frame("rounds").worker.unique().tolist()


def trains_now(dask_worker):
    """Whether a worker executes a visit."""
    return any(
        "skdist-visit" in str(key)
        for key, task in dask_worker.state.tasks.items()
        if task.state in ("executing", "long-running")
    )


def homes_of_servers(client):
    """Return the address of the worker of each server there is."""
    found = client.run(
        lambda dask_worker: sum("skdist-server" in str(key) for key in dask_worker.state.actors)
    )
    return [address for address, count in found.items() for _ in range(count)]
