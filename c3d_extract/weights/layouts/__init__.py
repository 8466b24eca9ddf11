"""Readers, one module per checkpoint layout, that return tensors under the names of the authors' prototxt."""
