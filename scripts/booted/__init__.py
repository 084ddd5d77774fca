"""The package in a booted Debian 12: for ``scripts/test-package``, which builds it first."""
