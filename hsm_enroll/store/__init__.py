"""What is stored on disk: every file is written whole or not at all, even if the power fails."""
