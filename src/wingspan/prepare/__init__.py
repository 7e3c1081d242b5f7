"""prepare: posts -> conversations -> tokens."""
