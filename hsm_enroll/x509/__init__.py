"""X.509 as values: certification requests and certificates; pure, over asn1crypto."""
