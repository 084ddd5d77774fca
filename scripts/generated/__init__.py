"""What scripts/pages writes: pages, and parts of pages, that say what the code says."""
