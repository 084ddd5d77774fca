"""Proof that a key lives in one particular TPM: what a TPM says is read strictly, and verified.

Pure: bytes in, values or errors out. It knows no TPM library; `struct` and `cryptography` are all it needs. The
protocol is in docs/attestation.md, the structures are those of the TPM 2.0 Library, Part 2.
"""
