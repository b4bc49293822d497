from unittest.mock import Mock

from skdist.cluster.actor import ServerActor


def test_a_server_that_is_handed_over_twice_ends_no_fit():
    actor, server = ServerActor(), Mock()
    server.back_up.side_effect = ["while it served", "when it refused all"]
    actor._server = server
    assert actor.hand_over([], 0, 0) == "while it served"
    server.abort.assert_called_once()
    # The first answer got lost, as its receiver did.
    assert actor.hand_over([], 0, 0) == "while it served"
