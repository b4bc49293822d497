"""Modules of torch as models: flat parameters, trainers, and multilayer perceptrons."""
