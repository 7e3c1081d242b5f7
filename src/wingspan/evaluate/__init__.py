"""Base model and assistant side by side: scores with intervals, paired tests, answers to read."""
