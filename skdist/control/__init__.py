"""Policies: numbers in, numbers out. They know nothing of Dask, models or arrays of parameters."""
