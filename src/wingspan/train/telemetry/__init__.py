"""What a run says of itself: the record of its steps, scores on held-out posts."""
