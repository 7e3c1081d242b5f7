"""What the assistant knows of the platform: a posts index, answers grounded in posts, checked citations."""
