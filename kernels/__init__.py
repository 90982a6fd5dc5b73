"""Tensor maths of a round: each op has a torch reference and a Triton twin of the same signature."""
