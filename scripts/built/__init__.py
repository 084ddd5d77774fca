"""Tests of a release and of its packages, which take a package index: part of scripts/test-package."""
