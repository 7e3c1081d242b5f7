"""Posts as they are posted: followed on the platform, and in the assistant's index within seconds, or out of it."""
