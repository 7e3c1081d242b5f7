"""What there is to compute on: the catalogue of chips, and this machine by measurement."""
