"""What a text is: cleaned, its language, its quality."""
