"""What a run keeps, and what it hands on: sharded checkpoints to go on from, Hugging Face folders to use."""
