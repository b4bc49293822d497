from unittest.mock import Mock

import pytest

from skdist.cluster import serving
from skdist.cluster.actor import ServerActor
from skdist.cluster.connection import ServerRef
from skdist.cluster.membership import Membership
from skdist.cluster.serving import Serving
from skdist.exceptions import ServerLostError


def test_a_server_that_is_handed_over_twice_ends_no_fit():
    actor, server = ServerActor(), Mock()
    server.back_up.side_effect = ["while it served", "when it refused all"]
    actor._server = server
    assert actor.hand_over([], 0, 0) == "while it served"
    server.abort.assert_called_once()
    # The first answer got lost, as its receiver did.
    assert actor.hand_over([], 0, 0) == "while it served"


@pytest.mark.parametrize("heard", [True, False])
def test_an_actor_that_workers_have_forgotten_is_lost_as_soon_as_the_client_hears_of_it(
    client, monkeypatch, heard
):
    monkeypatch.setattr(serving, "HEAR_SECONDS", 0.5)
    (address, _) = client.scheduler_info(n_workers=-1)["workers"]
    server = Serving(client, Membership(client), "fit", "token")
    server.actors = Mock(lost=[], ref=ServerRef(address, "skdist-server-gone"))
    looks = []

    def refuse_lost():
        looks.append(address)
        if heard and len(looks) > 2:
            raise ServerLostError("as Dask says")

    server.actors.refuse_lost = refuse_lost
    with pytest.raises(ServerLostError if heard else Exception, match="as Dask says" if heard else "-gone"):
        client.sync(server.call, "progress")
