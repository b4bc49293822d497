"""What knows Dask, with the estimators: partitions, heartbeats, the actor, visits, the driver of a fit."""
