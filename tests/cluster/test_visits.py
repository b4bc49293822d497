"""What the driver does about visits that are not heard of."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, Mock

from skdist.cluster.visits import Visits
from skdist.history import History


def test_a_visit_whose_end_the_server_has_not_heard_of_is_taken_away_there():
    serving, dispatcher = Mock(call=AsyncMock(return_value=8)), Mock(workers=["a", "b"], in_flight={})

    async def run():
        visits = Visits(Mock(), dispatcher, Mock(), serving, History(), "skdist-test", "test")
        visits.flying[asyncio.get_running_loop().create_future()] = 4
        await visits.give_up([3])

    asyncio.run(run())
    serving.call.assert_awaited_once_with("retire", 3)
    dispatcher.lost.assert_not_called()
