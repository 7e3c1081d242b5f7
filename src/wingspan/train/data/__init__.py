"""Which sample comes when, read as packed rows, and the proof that each was used exactly once."""
