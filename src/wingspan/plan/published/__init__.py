"""Runs that others measured: read, predicted, and what the planner's constants are fitted to."""
