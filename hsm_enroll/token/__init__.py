"""The token room: the only one that imports ``pkcs11``.

It takes and returns values (``hsm_enroll.key``); the library's objects and exceptions stay inside.
"""
