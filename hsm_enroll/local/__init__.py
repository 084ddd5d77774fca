"""A cloud on one machine, on loopback only: for demos, tests and work without an AWS account.

The entry point is ``hsm_enroll.local.cloud``. The extra ``local`` installs the libraries; mosquitto is a separate
program.
"""
