"""What lies on the disk: each file whole or untouched, whenever the power goes."""
