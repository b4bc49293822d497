"""Checkpoints: a file from which another process goes on with a fit."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import reprlib
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from skdist.backup import Backup
from skdist.control.dispatch import Dispatcher
from skdist.control.stopping import ConvergenceMonitor
from skdist.journal import EpochSums
from skdist.messages import Segment
from skdist.parameters import Stage

#: Seconds between two checkpoints of a fit in this process.
CHECKPOINT_SECONDS = 1.0

#: They take at most this part of the time.
CHECKPOINT_SHARE = 0.02

FORMAT = "skdist checkpoint 1"

#: Rows that are still to be visited, each with its epoch.
ToDo = Sequence[tuple[int, Segment]]


@dataclass(frozen=True)
class Reached:
    """How far a fit is.

    Attributes
    ----------
    backup : Backup
        Of its server, without rounds.
    opened : int
        Epochs that were begun or are through.
    complete : int
        Epochs that are through.
    todo : sequence of (int, Segment)
        What is left of those that were begun.
    """

    backup: Backup
    opened: int
    complete: int
    todo: ToDo

    @classmethod
    def of(cls, backup: Backup, dispatcher: Dispatcher, todo: ToDo) -> Reached:
        """Return how far a fit is with a backup: an epoch of which that lacks rows is not through."""
        complete = min([dispatcher.complete, *(epoch for epoch, _ in todo)])
        return cls(backup, dispatcher.epochs.opened, complete, todo)

    @property
    def restarted(self) -> Reached:
        """The same at the begin of the first epoch that is not complete, for partitions that are others."""
        backup = self.backup
        sums = {epoch: each for epoch, each in backup.sums.items() if epoch < self.complete}
        backup = backup._replace(sums=sums, newest_epoch=min(backup.newest_epoch, self.complete - 1))
        return Reached(backup, self.complete, self.complete, ())


class Checkpoint:
    """A file that says how far a fit is: arrays and JSON, no pickle.

    Parameters
    ----------
    path : str
        A path, or a URL that fsspec knows.
    parameters : mapping of str to str
        Of the estimator: those that must be the same when a fit goes on, written out.
    seed : int
        Of the orders of rows.

    Attributes
    ----------
    start : Reached or None
        Where the fit goes on; None at the begin.

    Notes
    -----
    A zip of ``.npy`` arrays (`numpy.savez`): ``state``, ``velocity`` and ``about``, JSON in UTF-8 with a
    SHA-256 of all. It is written beside its place and then moved there, so that there is a whole one at any
    time.
    """

    def __init__(self, path: str, parameters: Mapping[str, str], seed: int) -> None:
        self.path, self.seed = str(path), seed
        self._parameters = dict(parameters)
        self._read: dict[str, Any] | None = None
        self.start: Reached | None = None
        self._about: dict[str, Any] = {}

    def exists(self) -> bool:
        """Return whether there is a file."""
        fs, path = self._place()
        return bool(fs.exists(path))

    def read(self) -> None:
        """Read the file; ``seed`` is its own from then on.

        Raises
        ------
        FileNotFoundError
            Where there is none.
        ValueError
            Where it is torn, no checkpoint, or one of other parameters.
        """
        fs, path = self._place()
        if not fs.exists(path):
            raise FileNotFoundError(
                f"There is no checkpoint at {self.path!r} to go on from. Check the path; resume='auto' "
                "begins where there is none."
            )
        about, arrays = _unpacked(fs.cat_file(path), self.path)
        for name, value in self._parameters.items():
            other = about["parameters"].get(name)
            if other != value:
                raise ValueError(
                    f"The checkpoint {self.path!r} was made with {name}={other}, this fit has "
                    f"{name}={value}. Go on with the same parameters, or begin another fit with resume=False."
                )
        self._read, self.seed = about, about["seed"]
        self.start = _reached_in(about, arrays)

    def begin(self, model: Any, classes: Any, rows: Sequence[int], max_iter: int) -> None:
        """Take in what is trained, and set where the fit goes on.

        Parameters
        ----------
        model : Model
            The model.
        classes : ndarray or None
            Its labels.
        rows : sequence of int
            Of the partitions.
        max_iter : int
            Epochs at most.

        Raises
        ------
        ValueError
            Where the file is of another problem.
        OSError
            Where nothing can be written.
        """
        self._about = {
            **model.problem(),
            "classes": None if classes is None else np.asarray(classes).tolist(),
            "rows": sum(rows),
        }
        about, reached = self._read, self.start
        if about is None or reached is None:
            self._probe()
            return
        for name, value in self._about.items():
            known = about["model"].get(name)
            if known != value:
                raise ValueError(
                    f"The checkpoint {self.path!r} is of another problem: {name} is {reprlib.repr(known)} "
                    f"there and {reprlib.repr(value)} here. Pass the data it was made with, or begin with "
                    "resume=False."
                )
        if about["partitions"] != list(rows):
            reached = reached.restarted
        backup = reached.backup
        if not backup.converged:
            backup = backup._replace(last_epoch=max_iter - 1)
        self.start = Reached(backup, reached.opened, reached.complete, reached.todo)

    def write(self, reached: Reached, rows: Sequence[int]) -> None:
        """Replace the file.

        Parameters
        ----------
        reached : Reached
            How far the fit is.
        rows : sequence of int
            Of the partitions.
        """
        stage = reached.backup.stage
        assert stage is not None
        about = {
            "format": FORMAT,
            "parameters": self._parameters,
            "seed": self.seed,
            "model": self._about,
            "partitions": list(rows),
            **_about_reached(reached),
        }
        arrays = {"state": stage.state}
        if stage.velocity is not None:
            arrays["velocity"] = stage.velocity
        self._replace(_packed(about, arrays))

    @contextlib.contextmanager
    def regularly(self, reached: Callable[[], Reached], rows: Sequence[int]) -> Iterator[None]:
        """Write a checkpoint now and then, in a thread, and one at the end.

        Parameters
        ----------
        reached : callable
            Returns how far the fit is.
        rows : sequence of int
            Of the partitions.

        Raises
        ------
        OSError
            At the end, where one could not be written.
        """
        ended, failures = threading.Event(), []

        def write() -> None:
            pause = CHECKPOINT_SECONDS
            while not ended.wait(pause):
                began = time.perf_counter()
                try:
                    self.write(reached(), rows)
                except Exception as error:
                    failures.append(error)
                    return
                pause = max(CHECKPOINT_SECONDS, (time.perf_counter() - began) / CHECKPOINT_SHARE)

        writer = threading.Thread(target=write, name="skdist-checkpoint", daemon=True)
        writer.start()
        try:
            yield
        finally:
            ended.set()
            writer.join()
        self.write(reached(), rows)
        if failures:
            raise failures[0]

    def _place(self) -> tuple[Any, str]:
        import fsspec  # here, as most fits write nothing

        fs, path = fsspec.core.url_to_fs(self.path)
        return fs, str(path)

    def _probe(self) -> None:
        """Write and remove something: better now than at the end of the fit."""
        fs, path = self._place()
        try:
            parent = fs._parent(path)
            if parent:
                fs.makedirs(parent, exist_ok=True)
            fs.pipe_file(f"{path}.part", b"")
            fs.rm_file(f"{path}.part")
        except OSError as error:
            raise OSError(f"The checkpoint {self.path!r} cannot be written: {error}") from error

    def _replace(self, content: bytes) -> None:
        fs, path = self._place()
        fs.pipe_file(f"{path}.part", content)
        fs.mv(f"{path}.part", path)


def _about_reached(reached: Reached) -> dict[str, Any]:
    backup = reached.backup
    assert backup.stage is not None
    return {
        "version": backup.stage.version,
        "clock": backup.stage.clock,
        "monitor": None if backup.monitor is None else vars(backup.monitor),
        "sums": {str(epoch): asdict(sums) for epoch, sums in backup.sums.items()},
        "newest_epoch": backup.newest_epoch,
        "last_epoch": backup.last_epoch,
        "converged": backup.converged,
        "seconds": backup.seconds,
        "opened": reached.opened,
        "complete": reached.complete,
        "todo": [[epoch, part.partition, part.start, part.stop] for epoch, part in reached.todo],
    }


def _reached_in(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Reached:
    monitor = None
    if about["monitor"] is not None:
        monitor = ConvergenceMonitor(1, None, 1)
        vars(monitor).update(about["monitor"])
    backup = Backup(
        stage=Stage(arrays["state"], arrays.get("velocity"), about["version"], about["clock"]),
        monitor=monitor,
        sums={int(epoch): EpochSums(**sums) for epoch, sums in about["sums"].items()},
        rounds=[],
        newest_epoch=about["newest_epoch"],
        last_epoch=about["last_epoch"],
        converged=about["converged"],
        seconds=about["seconds"],
        offsets={},
    )
    todo = [(epoch, Segment(number, start, stop)) for epoch, number, start, stop in about["todo"]]
    return Reached(backup, about["opened"], about["complete"], todo)


def _packed(about: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    text = json.dumps({**about, "checksum": _checksum(about, arrays)})
    content = io.BytesIO()
    np.savez(content, about=np.frombuffer(text.encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _unpacked(content: bytes, path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about: dict[str, Any] = json.loads(arrays.pop("about").tobytes())
        whole = about.get("format") == FORMAT and about.pop("checksum") == _checksum(about, arrays)
    except (AttributeError, EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path!r} is no checkpoint of skdist, or a torn one: {error!r}.") from error
    if not whole:
        raise ValueError(
            f"{path!r} is no checkpoint of this version of skdist, or it was changed since it was written."
        )
    return about, arrays


def _checksum(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
