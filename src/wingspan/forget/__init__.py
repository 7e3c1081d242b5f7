"""Forgetting a post or an author: out of everything that can be rewritten, and which models cannot."""
