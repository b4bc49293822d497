"""A fit on a cluster, from the first task to the last key released."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from distributed import Client
from distributed.client import FutureCancelledError

from skdist.checkpoint import Checkpoint
from skdist.cluster import guard, tasks
from skdist.cluster.blocks import PERSIST_AGAIN
from skdist.cluster.feed import Feed
from skdist.cluster.membership import LOOK_SECONDS, Membership, Present
from skdist.cluster.partitions import HELD_SHARE, Partitions
from skdist.cluster.plugin import LearnerPlugin
from skdist.cluster.serving import ANSWER_SECONDS, MOST_LOSSES, Serving
from skdist.cluster.source import Source
from skdist.cluster.training import Training
from skdist.cluster.visits import Visits
from skdist.control.dispatch import MOST_EPOCHS, SPAN_SECONDS
from skdist.control.shares import crew, share_with
from skdist.exceptions import DataLostError, DivergedError, ServerLostError, SkdistError, UnlikeSampleError
from skdist.fitting import FitResult, FitSettings, build_dispatcher, conclude
from skdist.history import History
from skdist.models.validation import ALL_ROWS
from skdist.observers import Observers

logger = logging.getLogger("skdist")

#: Cleaning up takes at most this long, in seconds.
CLEANUP_SECONDS = 10.0

#: Each part of it takes at most this long, in seconds.
STEP_SECONDS = 3.0

#: The server and the plugins start within so many seconds.
BEGIN_SECONDS = 60.0


def train_on_cluster(
    client: Client,
    source: Source,
    plan: Any,
    settings: FitSettings,
    observers: Observers | None = None,
    validation: Source | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Train one model on the workers of a client.

    Parameters
    ----------
    client : Client
        Of the cluster.
    source : Source
        The rows.
    plan : Plan
        Makes the model once the partitions are measured.
    settings : FitSettings
        How to train.
    observers : Observers, optional
        Those who look at the model at the end of each epoch.
    validation : Source, optional
        Validation rows; None holds rows out where ``settings.hold_out`` says so.
    checkpoint : Checkpoint, optional
        Says where to begin, and is written regularly.

    Raises
    ------
    NoWorkersError
        Where there is no worker within the time limit.
    ValueError
        For bad data; the message names the partition.
    """
    samples = plan.samples
    while True:
        fit = ClusterFit(client, source, plan, settings, observers, validation, checkpoint, samples)
        try:
            result: FitResult = client.sync(fit.run)
            return result
        except KeyboardInterrupt:
            # The coroutine was cancelled and cleans up in the client's thread; wait for it.
            fit.cleaned.wait(CLEANUP_SECONDS)
            raise
        except (ValueError, DivergedError) as error:
            # What is wrong with a sample need not be wrong with all rows.
            if not fit.sampled or (fit.built and not isinstance(error, UnlikeSampleError | DivergedError)):
                raise
            logger.info("Of a sample of the partitions: %s Now all are measured.", error)
            samples = False


class ClusterFit:
    """The driver of a fit; all of it runs in the client's event loop.

    Parameters
    ----------
    client, source, plan, settings, observers, validation, checkpoint
        As in `train_on_cluster`.
    samples : bool
        Whether some partitions may stand for all, where each has to be loaded to be measured.

    Attributes
    ----------
    cleaned : threading.Event
        Set when nothing of the fit is left on the cluster.
    built : bool
        Whether the partitions were fit to build a model for.
    """

    def __init__(
        self,
        client: Client,
        source: Source,
        plan: Any,
        settings: FitSettings,
        observers: Observers | None = None,
        validation: Source | None = None,
        checkpoint: Checkpoint | None = None,
        samples: bool = False,
    ) -> None:
        self.client, self.plan, self.settings = client, plan, settings
        self.observers = observers if observers is not None else Observers()
        self.name = f"skdist-{uuid.uuid4().hex[:8]}"
        self.cleaned = threading.Event()
        self.built = False
        self._token = self.name.removeprefix("skdist-")
        intake = plan.intake
        self._membership = Membership(client)
        self._partitions = Partitions(
            self._membership, source, self._token, intake, settings.hold_out, samples=samples
        )
        self._validated = self._partitions
        if validation is not None:
            token = f"{self._token}-validation"
            self._validated = Partitions(
                self._membership, validation, token, intake, ALL_ROWS, "Validation partition"
            )
        self._checkpoint = checkpoint
        self._serving = Serving(
            client, self._membership, self.name, self._token, checkpoint is not None, settings.n_servers
        )
        self._visits: Visits | None = None
        self._training: Training | None = None
        self._starting: list[asyncio.Future[None]] = []
        self._registered = False
        self._history = History()
        self._feed = Feed(client, self.name, type(plan.estimator).__name__, settings)
        self._result: FitResult | None = None

    @property
    def sampled(self) -> bool:
        """Whether some partitions stood for all."""
        return self._partitions.sampled

    async def run(self) -> FitResult:
        """Train; leave nothing behind, whatever happens."""
        try:
            return await self._run()
        except FutureCancelledError as error:
            await self._membership.look()  # if the scheduler is gone, that is the error
            raise DataLostError(
                f"Partitions were lost with a worker or cancelled and cannot be made again ({error}). "
                + PERSIST_AGAIN
            ) from error
        except OSError as error:
            if not isinstance(error, SkdistError):
                await self._membership.look()
            raise
        finally:
            try:
                await asyncio.wait_for(asyncio.shield(self._clean_up()), CLEANUP_SECONDS)
            except TimeoutError:
                logger.warning("The fit could not clean up within %g s.", CLEANUP_SECONDS)
            finally:
                self.cleaned.set()

    async def _run(self) -> FitResult:
        members = self._membership
        present = await members.wait_for_workers()
        measuring = asyncio.ensure_future(members.while_there_are_workers(self._partitions.measure, present))
        measuring.add_done_callback(lambda _: self._partitions.sent.set())  # also where none could be sent
        self._starting = [
            asyncio.ensure_future(self._start_server(measuring)),
            asyncio.ensure_future(self._register_plugin()),
            asyncio.ensure_future(self._register_guard()),
        ]
        summaries = await measuring
        validation = []
        if self._validated is not self._partitions:
            validation = await members.while_there_are_workers(self._validated.measure)
            self._validated.let_go()
        await self._started()
        rows = [summary.rows for summary in summaries]
        homes = {number: summary.worker for number, summary in enumerate(summaries)}
        there, nbytes = sum(present.threads.values()), sum(summary.nbytes for summary in summaries)
        spare = HELD_SHARE * present.memory / len(present.threads)  # bytes that a worker can take from others
        fewer = self._may_be_fewer() and nbytes <= spare
        model, state, clock = self.plan.build(summaries, validation, there, fewer)
        n_learners = self.plan.n_learners
        all_train = n_learners == there
        at_work = present.threads if all_train else self._gather(present, rows, homes)
        self._feed.begin(len(present.threads))
        if self._checkpoint is not None:
            self._checkpoint.begin(model, self.plan.classes, rows, self.settings.max_iter)
        self.built = True
        begin = model, self.plan.classes, self.settings, state, sum(rows), n_learners, clock
        # Who looks at the model wants epochs to end together, as those do who wait for each other. What a
        # visit loads is let go of after it. And nobody knows how long an epoch of a module takes.
        free = self.settings.mode == "async" and not self.observers and not model.inner_parallel
        dispatcher = build_dispatcher(
            self.settings,
            model,
            rows,
            homes,
            seconds_per_row=1e-9 * nbytes / max(sum(rows), 1),
            # Of two visits whose rows have to come from other workers, the second might run first.
            queue=1 if all_train else 0,
            streamed=self._partitions.streamed,
            span=MOST_EPOCHS if free and not self._partitions.streamed else 1,
            span_seconds=SPAN_SECONDS,
            spare=spare * sum(rows) / max(nbytes, 1),
        )
        self._visits = Visits(
            self.client, dispatcher, self._partitions, self._serving, self._history, self.name, self._token,
            math.inf if all_train else n_learners,
        )  # fmt: skip
        self._training = Training(
            membership=members,
            serving=self._serving,
            dispatcher=dispatcher,
            visits=self._visits,
            observers=self.observers,
            feed=self._feed,
            partitions=self._partitions,
            validated=self._validated,
            plugin_name=self.name,
            present=present,
            together=self.settings.mode == "sync",
            checkpoint=self._checkpoint,
        )
        outcome = await self._training.run(*begin)
        self._result = conclude(
            outcome, self._history, dispatcher.last_epoch + 1, self.settings, rows=rows,
            workers=len(at_work), learners=n_learners, line=self._feed.line,
        )  # fmt: skip
        return self._result

    async def _start_server(self, measuring: asyncio.Future[Any]) -> None:
        """Start the server, once the tasks that measure are sent: a client sends at most every 10 ms."""
        await self._partitions.sent.wait()
        await self._serving.actors.start(lambda: not measuring.done())

    def _may_be_fewer(self) -> bool:
        """Whether not all workers need train.

        They do where the user has said how they go together, and where all are needed to load.
        """
        return (
            self.settings.mode == "async" and self.settings.n_servers == 1 and not self._partitions.streamed
        )

    def _gather(self, present: Present, rows: Sequence[int], homes: dict[int, str]) -> dict[str, int]:
        """Give the partitions of all to those who train; return the slots of these."""
        count, threads = self.plan.n_learners, present.threads
        logger.info(
            "%d of %d learners train: exchanges would cost more than others save.",
            count, sum(threads.values()),
        )  # fmt: skip
        at_work = crew(threads, count, self._serving.actors.hosts)
        for name in at_work:
            share_with(name, list(at_work), homes, rows)
        return at_work

    async def _register_guard(self) -> None:
        actors = f"skdist-server-{self._token}", f"skdist-shard-{self._token}"
        shown = self._feed.wants_page()
        self._feed.has_page = await guard.register(self.client, self.name, actors, shown)

    async def _register_plugin(self) -> None:
        plugin = LearnerPlugin(self.name, self.settings)
        self._registered = True  # from now on there may be something to undo
        replies = {}
        for _ in range(MOST_LOSSES):
            # A worker that leaves meanwhile makes it fail for all.
            with contextlib.suppress(OSError):
                replies = await self._registering(plugin)
                break
            await self._membership.wait_for_workers()
        for reply in replies.values():
            if reply["status"] != "OK":
                raise reply["exception"]

    async def _registering(self, plugin: LearnerPlugin) -> dict[str, Any]:
        """Return the replies to a plugin; those that are silent will find it when they are heard of again."""
        registering = asyncio.ensure_future(self.client.register_plugin(plugin, name=self.name))
        try:
            while not (await asyncio.wait([registering], timeout=LOOK_SECONDS))[0]:
                present = await self._membership.look()
                if present.silent:
                    call = self.client.run(tasks.has_plugin, self.name, workers=list(present.threads))
                    if all((await asyncio.wait_for(call, ANSWER_SECONDS)).values()):
                        return {}
            replies: dict[str, Any] = registering.result()
            return replies
        finally:
            registering.cancel()

    async def _started(self) -> None:
        """Wait until server and plugin are there; what was begun is not cancelled with us but undone."""
        for start in self._starting:
            try:
                await asyncio.wait_for(asyncio.shield(start), BEGIN_SECONDS)
            except TimeoutError as error:
                raise ServerLostError(
                    f"The parameter server or the heartbeat plugin did not start within {BEGIN_SECONDS:g} s."
                ) from error

    async def _clean_up(self) -> None:
        """Stop what is under way and free every key, the actor and the plugin, whatever fails of it."""
        if self._starting:
            _, late = await asyncio.wait(self._starting, timeout=CLEANUP_SECONDS / 4)
            for start in late:
                start.cancel()
            if late:
                await asyncio.wait(late, timeout=CLEANUP_SECONDS / 4)
        told = self._feed.end(self._result.history if self._result is not None else None)
        steps: list[Callable[[], Awaitable[Any] | None]] = []
        if self._training is not None:
            steps.append(self._training.end)
        if self._visits is not None and self._visits.flying:
            steps.append(self._serving.abort)
        if self._visits is not None:
            steps.append(self._visits.release)
        steps += [self._partitions.release, self._validated.release, self._serving.actors.release]
        for step in steps:
            await self._done(step)
        at_once: list[Callable[[], Awaitable[Any] | None]] = [lambda: told]
        if self._registered:
            at_once.append(lambda: guard.unregister(self.client, self.name))
            at_once.append(lambda: self.client.unregister_worker_plugin(self.name))
        await asyncio.gather(*(self._done(step) for step in at_once))

    async def _done(self, step: Callable[[], Awaitable[Any] | None]) -> None:
        try:
            waiting = step()
            if waiting is not None:
                await asyncio.wait_for(waiting, STEP_SECONDS)
        except Exception:
            # A cluster or a client that is gone has forgotten us; a worker that is frozen hears of it
            # when it thaws.
            logger.debug("A step of the clean-up failed.", exc_info=True)
