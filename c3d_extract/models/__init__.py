"""Networks: their architectures and the input and output of each."""
