"""What tests and experiments need: faults to order, and a look for what a fit left behind."""

from skdist.testing.cluster import delay_heartbeats, leftovers, on_servers

__all__ = ["delay_heartbeats", "leftovers", "on_servers"]
