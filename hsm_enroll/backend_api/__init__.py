"""The HTTP side, for devices and operators alike: the only room that imports ``requests``."""
