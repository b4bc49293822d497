from unittest.mock import Mock

import pytest

from skdist.cluster.actor import ServerActor, ServerRef
from skdist.exceptions import ServerLostError


def test_a_server_that_is_handed_over_twice_ends_no_fit():
    actor, server = ServerActor(), Mock()
    server.back_up.side_effect = ["while it served", "when it refused all"]
    actor._server = server
    assert actor.hand_over([], 0, 0) == "while it served"
    server.abort.assert_called_once()
    # The first answer got lost, as its receiver did.
    assert actor.hand_over([], 0, 0) == "while it served"


def test_an_actor_that_is_not_known_any_more_is_lost(client):
    server, other = sorted(client.scheduler_info(n_workers=-1)["workers"])
    ref = ServerRef(server, "skdist-server-gone")

    async def from_worker(dask_worker):
        with pytest.raises(ServerLostError, match="skdist-server-gone"):
            await ref.call_from_worker(dask_worker, "progress")

    client.run(from_worker, workers=[other])
    with pytest.raises(ServerLostError, match="skdist-server-gone"):
        client.sync(ref.call_from_driver, client, "progress")
