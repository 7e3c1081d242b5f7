"""Small models that tell the loss of a large one before it is trained."""
