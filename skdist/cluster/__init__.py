"""The only floor, with the estimators, that knows Dask: partitions, heartbeats, the actor, visits, recovery."""
