"""S3, S4: the text of a CSR. Every case goes through the whole policy, the refused ones through the real handler."""

from __future__ import annotations

import base64
import textwrap
import time
from collections.abc import Callable

import pytest

from enrollment_backend.csr_errors import CsrLineEndsMissingError, CsrRefusedError, CsrTooLargeError
from enrollment_backend.csr_policy import accept
from tests.support.csr_cases import GOOD, GOOD_DER, cases, check
from tests.support.csr_factory import THING, of_length, pem, pem_of, request
from tests.support.deployment import Deployment

BODY = GOOD.splitlines()[1:-1]


def lines(*body: str, label: str = "CERTIFICATE REQUEST") -> str:
    """Return a PEM block of these lines."""
    return "\n".join((f"-----BEGIN {label}-----", *body, f"-----END {label}-----", ""))


def with_padding_bits() -> str:
    """Return a good CSR whose last base64 character has bits set that encode nothing (RFC 4648 §3.5).

    How long a signature is differs by a byte or two: whether one needs padding is a matter of luck.
    """
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for text in (pem_of(request(None, THING, units=("u" * size,))) for size in range(1, 40)):
        body = "".join(text.splitlines()[1:-1])
        if body.endswith("="):
            at = len(body.rstrip("=")) - 1
            changed = body[:at] + alphabet[alphabet.index(body[at]) | 1] + body[at + 1 :]
            assert base64.b64decode(changed) == base64.b64decode(body)
            return lines(*(changed[start : start + 64] for start in range(0, len(changed), 64)))
    raise AssertionError("no CSR needed padding")


@cases(
    {
        "as it is": lambda: GOOD,
        "label of old": lambda: pem(GOOD_DER, "NEW CERTIFICATE REQUEST"),
        "text before": lambda: "Certificate Request:\n  Version: 1\n\n" + GOOD,
        "text behind": lambda: GOOD + "sent by line 3, on Monday\n",
        "text outside ascii": lambda: "Gerät für Straße 3 \U0001f511\x00\x1b\u2028\n" + GOOD + "Grüße",
        "a kilobyte of text": lambda: "x" * 8192 + "\n" + GOOD + "-" * 4096,
        "a line of dashes": lambda: "-----\n" + GOOD + "----- BEGIN -----\n",
        "no line end behind": lambda: GOOD.removesuffix("\n"),
        "a blank before": lambda: " " + GOOD,
        "a blank behind": lambda: GOOD + " ",
        "an empty line before": lambda: "\n" + GOOD,
        "an empty line behind": lambda: GOOD + "\n",
        "an empty line within": lambda: lines(BODY[0], "", *BODY[1:]),
        "blanks and tabs at line ends": lambda: GOOD.replace("\n", " \t\n"),
        "indented": lambda: "\t " + GOOD.replace("\n", "\n\t "),
        "a byte order mark": lambda: "\ufeff" + GOOD,
        "a byte order mark, text before": lambda: "\ufeffrequest:\n" + GOOD,
        "CRLF as line end": lambda: GOOD.replace("\n", "\r\n"),
        "CR as line end": lambda: GOOD.replace("\n", "\r"),
        "every line end there is": lambda: "\r\n".join(GOOD.split("\n", 2)[:2]) + "\r" + GOOD.split("\n", 2)[2],
        "all base64 in one line": lambda: lines("".join(BODY)),
        "lines of 76": lambda: lines(*textwrap.wrap("".join(BODY), 76)),
        "a character a line": lambda: lines(*"".join(BODY)),
    }
)
def test_s4_one_block_is_taken_with_whatever_tools_write_around_it(text_of: Callable[[], str]) -> None:
    """S4: of the block nothing but its one canonical form goes on (RFC 7468 §2, §3, §5.2, §7)."""
    assert accept(text_of(), THING).pem == GOOD.removesuffix("\n")


@cases(
    {
        "empty": lambda: "",
        "no pem": lambda: "".join(BODY),
        "der in latin-1": lambda: GOOD_DER.decode("latin-1"),
        "label of a certificate": lambda: pem(GOOD_DER, "CERTIFICATE"),
        "label in lower case": lambda: pem(GOOD_DER, "certificate request"),
        "label of a key": lambda: pem(GOOD_DER, "PRIVATE KEY"),
        "labels differ": lambda: GOOD.replace("END CERTIFICATE REQUEST", "END NEW CERTIFICATE REQUEST"),
        "labels differ the other way": lambda: GOOD.replace("BEGIN CERTIFICATE", "BEGIN NEW CERTIFICATE"),
        "labels differ, in one line": lambda: GOOD.replace("END CERT", "END NEW CERT").replace("\n", ""),
        "no end": lambda: GOOD.partition("-----END")[0],
        "no begin": lambda: GOOD.partition("REQUEST-----\n")[2],
        "end before begin": lambda: "-----END CERTIFICATE REQUEST-----\n" + GOOD.partition("-----END")[0],
        "two blocks": lambda: GOOD + GOOD,
        "two blocks, one of old": lambda: pem(GOOD_DER, "NEW CERTIFICATE REQUEST") + GOOD,
        "a block of another kind behind": lambda: GOOD + pem(b"\x00", "CERTIFICATE"),
        "a block of another kind before": lambda: pem(b"\x00", "EC PARAMETERS") + GOOD,
        "a block without an end before": lambda: "-----BEGIN EC PARAMETERS-----\n" + GOOD,
        "an end without a block behind": lambda: GOOD + "-----END CERTIFICATE REQUEST-----",
        "a block within": lambda: lines(*pem(b"\x00", "CERTIFICATE").splitlines(), *BODY),
        "a block that no line end separates": lambda: GOOD + "\x0b" + GOOD,
        "text before, in the same line": lambda: "Certificate Request: " + GOOD,
        "text behind, in the same line": lambda: GOOD.removesuffix("\n") + "x",
        "text within": lambda: lines("Version: 1", "", *BODY),
        "a letter within": lambda: lines(BODY[0] + "x", *BODY[1:]),
        "a blank within a line": lambda: lines(BODY[0][:8] + " " + BODY[0][8:], *BODY[1:]),
        "a blank in the label": lambda: GOOD.replace("CERTIFICATE REQUEST", "CERTIFICATE  REQUEST"),
        "six dashes": lambda: GOOD.replace("-----BEGIN", "------BEGIN"),
        "NUL within": lambda: GOOD[:60] + "\x00" + GOOD[60:],
        "a vertical tab as line end": lambda: lines(BODY[0] + "\x0b" + BODY[1], *BODY[2:]),
        "U+2028 as line end": lambda: lines(BODY[0] + "\u2028" + BODY[1], *BODY[2:]),
        "a byte order mark within": lambda: lines("\ufeff" + BODY[0], *BODY[1:]),
        "two byte order marks": lambda: "\ufeff\ufeff" + GOOD,
        "headers of RFC 1421": lambda: lines("Proc-Type: 4,ENCRYPTED", "", *BODY),
        "a checksum of RFC 9580": lambda: lines(*BODY, "=abcd"),
        "a bad character": lambda: lines(BODY[0].replace(BODY[0][7], "!"), *BODY[1:]),
        "the url alphabet": lambda: lines("-_" + BODY[0][2:], *BODY[1:]),
        "a letter outside ascii": lambda: lines("\u0410" + BODY[0][1:], *BODY[1:]),
        "padding in the middle": lambda: lines(BODY[0][:-1] + "=", *BODY[1:]),
        "padding first": lambda: lines("=" + BODY[0], *BODY[1:]),
        "padding too much": lambda: lines(*BODY[:-1], BODY[-1] + "="),
        "a character short": lambda: lines(*BODY[:-1], BODY[-1].rstrip("=")[:-1]),
        "bits in the padding": with_padding_bits,
    }
)
def test_s4_anything_but_one_pem_block_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S4: one block of the right label, strict base64, nothing else that begins or ends a block."""
    check(backend, text_of(), "csr-pem-invalid")


NSS = "\nCertificate request generated by certutil\nPhone: (not specified)\n\n" + pem(
    GOOD_DER, "NEW CERTIFICATE REQUEST"
)


@cases(
    {
        "as curl -d sends a file": lambda: GOOD.replace("\n", ""),
        "and one with text before": lambda: NSS.replace("\n", ""),
        "and one with text behind": lambda: (GOOD + "sent by line 3\n").replace("\n", ""),
        "as a shell does without quotes": lambda: GOOD.replace("\n", " "),
        "with a line end behind": lambda: GOOD.replace("\n", "") + "\r\n",
        "NUL in their place": lambda: GOOD.replace("\n", "\x00"),
    }
)
def test_s4_a_csr_that_lost_its_line_ends_is_told_so(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S4: the commonest slip has an error of its own, which says what happened and what to do."""
    check(backend, text_of(), "csr-line-ends-missing")
    assert "--data-binary" in CsrLineEndsMissingError.detail


@cases(
    {
        "backslash n": lambda: GOOD.replace("\n", "\\n"),
        "backslash r, backslash n": lambda: GOOD.replace("\n", "\\r\\n"),
        "backslash n, and a line end behind": lambda: GOOD.removesuffix("\n").replace("\n", "\\n") + "\n",
        "text before": lambda: NSS.replace("\n", "\\n"),
    }
)
def test_s4_a_csr_whose_line_ends_were_escaped_is_told_so(backend: Deployment, text_of: Callable[[], str]) -> None:
    r"""S4: likewise where each line end became the characters ``\n``, as escaping for JSON twice does."""
    check(backend, text_of(), "csr-line-ends-escaped")


@cases(
    {
        "nothing but a block's beginning": lambda: "-----BEGIN CERTIFICATE REQUEST-----" + "A" * 1_600_000,
        "a block that does not end": lambda: GOOD.partition("-----END")[0] + "A" * 1_600_000,
        "line ends": lambda: "\n" * 800_000 + "\r" * 800_000,
        "dashes": lambda: "-" * 1_600_000,
        "blanks": lambda: "-----BEGIN CERTIFICATE REQUEST-----" + " \t" * 800_000 + "-----END ",
        "almost ends": lambda: "-----BEGIN CERTIFICATE REQUEST-----" + "-----EN" * 200_000 + "-----END X-----",
        "one line": lambda: (
            "-----BEGIN CERTIFICATE REQUEST-----" + "A" * 1_600_000 + "-----END CERTIFICATE REQUEST-----"
        ),
    }
)
def test_s4_a_pem_is_read_in_linear_time(text_of: Callable[[], str]) -> None:
    """S4: a hundred times what a body can hold takes seconds and not hours, whatever it looks like."""
    text = text_of()
    begun = time.process_time()
    with pytest.raises(CsrRefusedError):
        accept(text, THING)
    assert time.process_time() - begun < 20


def test_s3_the_limit_is_on_the_block_that_goes_to_aws_iot() -> None:
    """S3: neither text around it, nor how its lines are made, counts against the 4,096 characters."""
    largest = of_length(4096)
    wide = "x" * 4096 + "\r\n" + largest.replace("\n", " \t\r\n\r\n")
    assert accept(wide, THING).pem == largest.removesuffix("\n")
    narrow = lines("".join(of_length(4097).splitlines()[1:-1]))
    assert len(narrow) < 4096
    with pytest.raises(CsrTooLargeError):
        accept(narrow, THING)
