import pytest

from skdist.cluster.connection import ServerRef
from skdist.exceptions import ServerLostError


def test_an_actor_that_another_worker_has_forgotten_is_lost(client):
    server, other = sorted(client.scheduler_info(n_workers=-1)["workers"])
    ref = ServerRef(server, "skdist-server-gone")

    async def call(dask_worker):
        with pytest.raises(ServerLostError, match="skdist-server-gone"):
            await ref.call_from_worker(dask_worker, "progress")

    client.run(call, workers=[other])
