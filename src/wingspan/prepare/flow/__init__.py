"""Rows on disk under two verbs, map and exchange by key, and who does the work."""
