"""What a person sees of a plan: terminal, page, and why each number is what it is."""
