"""The token room: the only one that imports ``pkcs11``.

Values go in and out (``hsm_enroll.key``); the library's objects and exceptions stay here.
"""
