"""What was said before: duplicates, templates, copypasta, texts of evaluation sets."""
