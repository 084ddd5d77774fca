"""A cloud on one machine, on loopback only: for demos, tests and work without an AWS account.

``hsm_enroll.local.cloud`` is the way in. The extra ``local`` brings the libraries; mosquitto is a program of its own.
"""
