"""A network on a device: which devices there are, at which precision, how batches run."""
