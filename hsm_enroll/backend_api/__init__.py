"""The one HTTP client, for devices and operators alike, and the only room that imports ``requests``."""
