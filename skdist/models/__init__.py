"""Models: arrays in, arrays out. The kernels, the losses, and what describes the data to them."""
