from __future__ import annotations

import asyncio
import os
import signal

import pytest

from skdist.cluster.fetch import fetch


def test_a_wait_that_is_cancelled_at_any_point_leaves_the_client_intact(client):
    async def cancel_after(hops):
        waiting = asyncio.ensure_future(fetch(client, [client.submit(abs, -hops, pure=False)]))
        for _ in range(hops):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return await client.gather(client.submit(abs, -hops, pure=False))

    async def cancel_while_gathering(hops):
        future = client.submit(abs, -hops, pure=False)
        await future
        waiting = asyncio.ensure_future(fetch(client, [future]))
        for _ in range(hops):
            await asyncio.sleep(0)
        ended = waiting.done()
        waiting.cancel()
        return ended, await client.gather(future)

    for hops in range(8):
        assert client.sync(cancel_after, hops, callback_timeout=10) == hops
        ended, result = client.sync(cancel_while_gathering, hops, callback_timeout=10)
        assert not ended  # a result from a worker takes longer
        assert result == hops


def test_errors_of_tasks_are_raised(client):
    async def attempt():
        await fetch(client, [client.submit(int, "x", pure=False)])

    with pytest.raises(ValueError, match="invalid literal"):
        client.sync(attempt, callback_timeout=10)


def test_a_worker_that_is_frozen_holds_up_no_result_of_another_one(client):
    frozen, other = sorted(client.scheduler_info(n_workers=-1)["workers"])
    pid = client.run(os.getpid, workers=[frozen])[frozen]

    async def attempt():
        futures = [client.submit(abs, -1, pure=False, workers=[name]) for name in (frozen, other)]
        await asyncio.gather(*futures)
        os.kill(pid, signal.SIGSTOP)
        try:
            held, free = (asyncio.ensure_future(fetch(client, [future])) for future in futures)
            await asyncio.wait([held, free], timeout=5, return_when=asyncio.FIRST_COMPLETED)
            ended = [held.done(), free.done()]
        finally:
            os.kill(pid, signal.SIGCONT)
        return ended, await held, await free

    assert client.sync(attempt, callback_timeout=30) == ([False, True], [1], [1])
