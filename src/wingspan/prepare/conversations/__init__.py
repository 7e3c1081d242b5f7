"""Posts, dialogues and labels as conversations to align on."""
