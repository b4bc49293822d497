"""Which digit is it? The same script on a laptop and on Slurm.

Install with ``pip install "dask-skdist[jobqueue]"`` and run ``python slurm.py`` on the login node of a
Slurm cluster: workers come as jobs, the fit begins with the first and the others join it. ``python slurm.py
--local`` takes processes on this machine, so that the script can be tried before it queues. ``python
slurm.py --help`` lists what a site may want to be told; what is not set comes from
``~/.config/dask/jobqueue.yaml``.
"""

from __future__ import annotations

import argparse
from typing import Any

import dask
import dask.array as da
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdist import DistributedSGDClassifier


def options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--local", action="store_true", help="take processes on this machine")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cores", type=int, default=1, help="of a job")
    parser.add_argument("--memory", default="2GB", help="of a job")
    parser.add_argument("--walltime", default="00:10:00")
    parser.add_argument("--queue", help="partition of Slurm")
    parser.add_argument("--account")
    parser.add_argument("--interface", help="network that all nodes have, such as ib0")
    parser.add_argument("--wait", type=float, default=600, help="seconds for the first job to start")
    return parser.parse_args()


def start_cluster(wanted: argparse.Namespace) -> Any:
    """Return a cluster of Slurm jobs, or of processes on this machine."""
    if wanted.local:
        return LocalCluster(n_workers=wanted.jobs, threads_per_worker=wanted.cores, dashboard_address=":0")
    from dask_jobqueue import SLURMCluster

    settings = {name: getattr(wanted, name) for name in ("queue", "account", "interface")}
    cluster = SLURMCluster(
        cores=wanted.cores,
        processes=1,
        memory=wanted.memory,
        walltime=wanted.walltime,
        scheduler_options={"dashboard_address": ":0"},
        **{name: value for name, value in settings.items() if value is not None},
    )
    cluster.scale(jobs=wanted.jobs)
    return cluster


def main() -> None:
    """Start a cluster, train on it and judge."""
    wanted = options()
    dask.config.set({"skdist.worker-timeout": wanted.wait})
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)
    with start_cluster(wanted) as cluster, Client(cluster):
        # A collection of one's own would come from dask.dataframe.read_parquet on the shared disk.
        rows, labels = da.from_array(X_train, chunks=(225, -1)), da.from_array(y_train, chunks=225)
        clf = DistributedSGDClassifier("log_loss", random_state=0).fit(rows, labels)
    workers = clf.history_.to_frame("rounds")["worker"].unique()
    print(
        f"{type(cluster).__name__}: {clf.n_iter_} passes over {len(X_train):,} rows on {len(workers)} workers"
    )
    print(f"on {len(X_test)} rows held out: accuracy {clf.score(X_test, y_test):.3f}")


if __name__ == "__main__":
    main()
