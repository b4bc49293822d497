"""The estimators: scikit-learn's interface on arrays, frames and Dask collections."""
