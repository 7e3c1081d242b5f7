"""Base model -> assistant: supervised fine-tuning on conversations, on train's loop."""
