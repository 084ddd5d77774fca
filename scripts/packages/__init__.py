"""Builds the packages of Linux distributions; scripts/package is its command."""
