"""Training under a virtual clock: the same server, gates, dispatch and visit loop, and nobody waits.

Learners compute for real, one after the other, and what they and their links would have taken is added up.
"""

from skdist.simulator.cluster import SimulatedCluster, active_cluster

__all__ = ["SimulatedCluster", "active_cluster"]
