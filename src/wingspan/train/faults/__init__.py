"""What goes wrong in a run of months: odd steps, hanging and slow ranks."""
