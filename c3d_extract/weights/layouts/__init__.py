"""One file for each layout of checkpoint: the tensors of a file under the names of the authors' prototxt."""
