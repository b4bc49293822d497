"""What tests and experiments need: a simulated cluster, faults to order, a look at what is left behind."""

from skdist.simulator import SimulatedCluster
from skdist.testing.cluster import delay_heartbeats, leftovers, on_servers, slow_down

__all__ = ["SimulatedCluster", "delay_heartbeats", "leftovers", "on_servers", "slow_down"]
