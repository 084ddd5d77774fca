"""``forward`` and the daily renewal as systemd's services: their units, their installation, and what systemd is told.

The units in ``files`` are those of a distribution's package, as they are. An installation by ``service install`` adds a
drop-in to each that says what is this machine's own: where hsm-enroll and its files are, and whom it runs as.
"""
