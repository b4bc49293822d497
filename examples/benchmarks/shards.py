"""What several servers save a wide model: fits with one, two and four in turns, on a cluster of processes.

``python shards.py [--columns 1048576] [--classes 10] [--rows 40000] [--passes 2] [--repeats 3]
[--link 100]`` prints a Markdown table. The rows are made up like hashed text: half of the entries are words
of a Zipf distribution, the others n-grams of which most are rare. A multinomial model has a coefficient for
each column and class, and a running average of each.

"ms of an exchange" is the median over the rounds of all fits of a kind, from the update to the parameters of
the answer, while the learners train on; "of the slowest worker" is that of the worker where it is longest: a
learner beside the only server has its exchanges for nothing. "seconds of a pass" is the median over the fits.

Processes on one machine share its processors and its memory, so that several servers have nothing to share
out. ``--link 100`` lets each process send no more than 100 MB a second, as if it were a machine of its own:
what is sent takes its turn and waits for so long. What it receives is not limited, which favours a single
server.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy.sparse as sp
from distributed import Client, LocalCluster, wait
from distributed.comm.tcp import TCP
from distributed.comm.utils import to_frames

from skdist import DistributedSGDClassifier
from skdist.cluster import mailbox

SERVERS = (1, 2, 4)

ENTRIES = 150  # of a row


def rows_of(number: int, n_rows: int, n_columns: int) -> sp.csr_matrix:
    """Return rows of counts, those of each number others."""
    rng = np.random.default_rng(number)
    words = rng.zipf(1.3, (n_rows, ENTRIES // 2)) % n_columns
    grams = rng.integers(0, n_columns, (n_rows, ENTRIES - ENTRIES // 2))
    columns = np.sort(np.hstack([words, grams]), axis=1)
    starts = np.arange(0, n_rows * ENTRIES + 1, ENTRIES)
    values = np.full(n_rows * ENTRIES, 1 / np.sqrt(ENTRIES), np.float32)
    rows = sp.csr_matrix((values, columns.reshape(-1).astype(np.int32), starts), (n_rows, n_columns))
    rows.sum_duplicates()
    return rows


def labels_of(rows: sp.csr_matrix, n_classes: int) -> np.ndarray:
    """Return the labels of a linear rule with noise."""
    rule = np.random.default_rng(0).standard_normal((rows.shape[1], n_classes)).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal((rows.shape[0], n_classes))
    return np.argmax(rows @ rule + 0.5 * noise, axis=1)


def on_cluster(client: Client, args: argparse.Namespace) -> tuple[Any, Any]:
    """Return rows and labels on the workers, two partitions for each."""
    parts = 2 * args.workers
    size = args.rows // parts
    blocks = [dask.delayed(rows_of)(number, size, args.columns) for number in range(parts)]
    labels = [dask.delayed(labels_of)(block, args.classes) for block in blocks]
    meta = sp.csr_matrix((0, 0), dtype=np.float32)
    X = da.concatenate([da.from_delayed(block, (size, args.columns), meta=meta) for block in blocks])
    y = da.concatenate([da.from_delayed(block, (size,), np.int64) for block in labels])
    X, y = client.persist([X, y])
    wait([X, y])
    return X, y


def limit_link(bytes_per_second: float) -> None:
    """Make what this process sends take its turn, at so many bytes a second, and share no memory."""
    mailbox.FOLDER = "/nowhere"
    plain, turn = TCP.write, asyncio.Lock()

    async def write(self: Any, msg: Any, serializers: Any = None, on_error: str = "message") -> Any:
        context = {"sender": self.local_info, "recipient": self.remote_info, **self.handshake_options}
        frames = await to_frames(msg, serializers=serializers, on_error=on_error, context=context)
        size = sum(memoryview(frame).nbytes for frame in frames)
        if size > 1 << 16:
            async with turn:
                await asyncio.sleep(size / bytes_per_second)
        return await plain(self, msg, serializers=serializers, on_error=on_error)

    TCP.write = write


def slowest(rounds: list[Any]) -> float:
    """Return the median time of an exchange of the worker where it is longest."""
    taken: dict[str, list[float]] = {}
    for record in rounds:
        taken.setdefault(record.worker, []).append(record.seconds_exchange)
    return max(statistics.median(seconds) for seconds in taken.values())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--columns", type=int, default=1 << 20)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--round", type=int, default=2_048, help="rows of a round")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--link", type=float, help="MB a second that each process can send; else no limit")
    args = parser.parse_args()
    exchanges: dict[int, list[float]] = {count: [] for count in SERVERS}
    passes: dict[int, list[float]] = {count: [] for count in SERVERS}
    longest: dict[int, list[float]] = {count: [] for count in SERVERS}
    losses: dict[int, list[float]] = {count: [] for count in SERVERS}
    with (
        LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        X, y = on_cluster(client, args)
        if args.link:
            client.run(limit_link, args.link * 1e6)
        for repeat in range(args.repeats):
            for count in SERVERS:
                clf = DistributedSGDClassifier(
                    "log_loss", multi_class="multinomial", max_iter=args.passes, tol=None,
                    random_state=repeat, round_size=args.round, batch_sizer=None, client=client,
                    n_servers=count,
                )  # fmt: skip
                began = time.perf_counter()
                clf.fit(X, y)
                seconds = time.perf_counter() - began
                rounds, fit = clf.history_.rounds, clf.history_.fits[-1]
                taken = [record.seconds_exchange for record in rounds if record.seconds_exchange]
                exchanges[count] += taken
                passes[count].append(fit.seconds / args.passes)
                longest[count].append(slowest(rounds))
                losses[count].append(clf.history_.epochs[-1].loss)
                print(f"# {count}: {seconds:.1f} s, {1e3 * statistics.median(taken):.0f} ms", flush=True)
        n_coefficients = np.count_nonzero(clf.coef_.any(axis=0)) * args.classes
    print(f"\n{n_coefficients:,} coefficients, {args.rows:,} rows, {args.workers} workers.\n")
    print("| n_servers | ms of an exchange | of the slowest worker | seconds of a pass | loss |")
    print("|---|---|---|---|---|")
    for count in SERVERS:
        print(
            f"| {count} | {1e3 * statistics.median(exchanges[count]):.0f} "
            f"| {1e3 * statistics.median(longest[count]):.0f} | {statistics.median(passes[count]):.2f} "
            f"| {statistics.median(losses[count]):.4f} |"
        )


if __name__ == "__main__":
    main()
