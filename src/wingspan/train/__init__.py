"""Train: tokens -> base model."""
