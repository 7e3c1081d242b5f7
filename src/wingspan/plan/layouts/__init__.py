"""Which layouts a fleet allows, which is fastest, which cheapest, and why the others lost."""
