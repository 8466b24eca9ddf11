"""Networks: their architectures and what each takes and gives."""
