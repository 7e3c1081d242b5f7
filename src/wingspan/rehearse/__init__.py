"""Would it hold? The real model of the project on a fleet that does not exist."""
