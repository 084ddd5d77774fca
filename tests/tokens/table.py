"""What a token can do, tried: the rows of the table in docs/tokens.md and at the end of a run with ``--module``."""

from __future__ import annotations

import secrets
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hsm_enroll.errors import TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token import capabilities, keypair, modules, session
from tests.support.under_test import TokenUnderTest
from tests.tokens.handshake import TLS_1_2, TLS_1_3, shake

HEADER = ("token", "module", "key type", "mechanisms", "generation", "signature", "TLS 1.2", "TLS 1.3")

_SIGNATURES = 5


@dataclass(frozen=True)
class Row:
    """One key type on one token, as it is printed; times are of one run on one machine."""

    token: str
    module: str
    key_type: str
    mechanisms: str
    generation: str
    signature: str
    tls_1_2: str
    tls_1_3: str

    @property
    def cells(self) -> list[str]:
        """What stands in its columns."""
        times = [self.generation, self.signature]
        return [self.token, self.module, self.key_type, self.mechanisms, *times, self.tls_1_2, self.tls_1_3]


def rows(token: TokenUnderTest) -> list[Row]:
    """Try every key type on a token; the keys are destroyed again."""
    with tempfile.TemporaryDirectory() as folder:
        return [_row(token, key_type, Path(folder)) for key_type in KeyType]


def text(table: list[Row]) -> str:
    """Write rows as a Markdown table."""
    lines = [list(HEADER), ["---"] * len(HEADER), *(row.cells for row in table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def without_times(cells: list[str]) -> list[str]:
    """Leave out what differs from run to run."""
    return cells[:4] + cells[6:]


def _row(token: TokenUnderTest, key_type: KeyType, folder: Path) -> Row:
    name = token.name
    found = session.find(name)
    library = modules.load(name.module)
    listed = found.slot.get_mechanisms()
    needed = (key_type.generation_mechanism, *key_type.signing_mechanisms)
    mechanisms = [f"`{mechanism}`" for mechanism in needed if capabilities.mechanism(mechanism) in listed]
    tried = ["-"] * 4
    if key_type in capabilities.read(found).key_types:
        tried = _tried(token, key_type, folder)
    version = ".".join(map(str, library.library_version))
    model = " ".join(f"{name.manufacturer} {name.model}".split())
    module = f"{library.manufacturer_id.strip()} {version}"
    return Row(model, module, key_type, ", ".join(mechanisms) or "-", *tried)


def _tried(token: TokenUnderTest, key_type: KeyType, folder: Path) -> list[str]:
    key_id = secrets.token_bytes(8)
    label = f"table-{key_id.hex()}"
    with token.opened() as opened:
        try:
            begin = time.perf_counter()
            pair = keypair.generate(opened, key_type, label=label, key_id=key_id)
            generation = time.perf_counter() - begin
        except TokenRefusedError:
            return ["refused", "-", "-", "-"]
        signature = _median_signature(pair)
    try:
        shaken = [shake(token.name, token.pin, pair, version, folder) == version for version in (TLS_1_2, TLS_1_3)]
    finally:
        with token.opened() as opened:
            keypair.destroy(opened, label=label, key_id=key_id)
    return [_shown(generation), _shown(signature), *("yes" if good else "no" for good in shaken)]


def _median_signature(pair: keypair.KeyPair) -> float:
    times = []
    for _ in range(_SIGNATURES):
        begin = time.perf_counter()
        pair.sign(b"a certification request")
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
