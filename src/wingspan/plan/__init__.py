"""What would it take? Memory, time, money and energy of a project, by arithmetic alone; needs no torch."""
