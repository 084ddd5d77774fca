"""Where the PIN comes from, and that it goes nowhere else."""

from __future__ import annotations

import json
import math
import os
import random
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from traceback import format_exception

import pytest

from hsm_enroll.device import pin
from hsm_enroll.errors import HsmEnrollError, PinExposedError, PinMissingError, StateCorruptError, StateError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.login import Origin, Pin

_PIN = "493817"
_TOKEN = TokenName(
    Path("/usr/lib/softhsm/libsofthsm2.so"), "gateway", "0123456789abcdef", "SoftHSM project", "SoftHSM v2"
)


def _none() -> None:
    return None


def _made() -> Pin:
    return Pin("made", Origin("the saved PIN"))


def _never() -> Pin:
    raise AssertionError("a source behind the first one was asked")


def _pin_file(folder: Path, content: str | bytes = f"{_PIN}\n", mode: int = 0o600) -> Path:
    file = folder / "pin.txt"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(mode)
    return file


def _credentials(folder: Path, content: str, mode: int = 0o400) -> dict[str, str]:
    directory = folder / "credentials"
    directory.mkdir()
    (directory / "hsm-enroll.pin").write_text(content)
    (directory / "hsm-enroll.pin").chmod(mode)
    return {"CREDENTIALS_DIRECTORY": str(directory)}


# The order of the sources


def test_the_file_comes_first(tmp_path: Path) -> None:
    """A PIN file that was named is taken before every other source, and none of those is asked."""
    environment = {**_credentials(tmp_path, "credential"), "HSM_ENROLL_PIN": "variable"}
    found = pin.resolve(_pin_file(tmp_path, "file"), environment, saved_pin=_never, ask=_never)
    assert found == Secret("file")


def test_the_credential_comes_before_the_variable(tmp_path: Path) -> None:
    """The systemd credential hsm-enroll.pin is taken before HSM_ENROLL_PIN."""
    environment = {**_credentials(tmp_path, "credential\n"), "HSM_ENROLL_PIN": "variable"}
    assert pin.resolve(None, environment, saved_pin=_never, ask=_never) == Secret("credential")


def test_the_variable_comes_before_the_made_pin() -> None:
    """HSM_ENROLL_PIN is taken before a PIN that was made here."""
    environment = {"HSM_ENROLL_PIN": "variable"}
    assert pin.resolve(None, environment, saved_pin=_never, ask=_never) == Secret("variable")


def test_the_made_pin_comes_before_the_prompt() -> None:
    """Nobody is asked for a PIN that was made here."""
    assert pin.resolve(None, {}, saved_pin=_made, ask=_never) == Secret("made")


def test_a_person_is_asked_last() -> None:
    """Where nothing else is, the prompt's answer is the PIN."""
    assert pin.resolve(None, {}, saved_pin=_none, ask=lambda: Secret("typed")) == Secret("typed")


@pytest.mark.parametrize("ask", [None, lambda: Secret("")])
def test_without_any_source_it_is_missing(ask: Callable[[], Secret] | None) -> None:
    """D4: nobody to ask, or nothing answered, is PinMissingError, exit status 12, with a way to give one."""
    with pytest.raises(PinMissingError) as caught:
        pin.resolve(None, {}, saved_pin=_none, ask=ask)
    assert caught.value.exit_status == 12
    assert "HSM_ENROLL_PIN_FILE" in caught.value.hint


@pytest.mark.parametrize("directory", ["", "empty", "missing", "missing/below"])
def test_other_credentials_do_not_hide_the_variable(tmp_path: Path, directory: str) -> None:
    """A service with other credentials, or none, still has HSM_ENROLL_PIN."""
    (tmp_path / "empty").mkdir()
    environment = {"CREDENTIALS_DIRECTORY": directory and str(tmp_path / directory), "HSM_ENROLL_PIN": _PIN}
    assert pin.resolve(None, environment, saved_pin=_none, ask=None) == Secret(_PIN)


def test_an_empty_variable_says_nothing() -> None:
    """HSM_ENROLL_PIN set to nothing leaves the word to the next source."""
    found = pin.resolve(None, {"HSM_ENROLL_PIN": ""}, saved_pin=_made, ask=None)
    assert found == Secret("made")


def test_a_credential_may_be_readable_by_group(tmp_path: Path) -> None:
    """systemd guards the folder and may set modes such as 0440; that is not our file to judge."""
    environment = _credentials(tmp_path, _PIN, mode=0o440)
    assert pin.resolve(None, environment, saved_pin=_never, ask=None) == Secret(_PIN)


def test_an_empty_credential_is_missing(tmp_path: Path) -> None:
    """D4: a credential that is there and empty is an error, not a reason to try another PIN."""
    with pytest.raises(PinMissingError, match=r"hsm-enroll\.pin is empty"):
        pin.resolve(None, _credentials(tmp_path, "\n"), saved_pin=_never, ask=_never)


def test_a_credential_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A credential that cannot be looked at is a StateError, not a crash and not another PIN."""
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path / ("x" * 300)), "HSM_ENROLL_PIN": _PIN}
    with pytest.raises(StateError, match="cannot be read"):
        pin.resolve(None, environment, saved_pin=_never, ask=_never)


# PIN files


@pytest.mark.parametrize(
    "content",
    [
        _PIN,
        f"{_PIN}\n",
        f"{_PIN}\r\n",
        f"  {_PIN}\t\n",
        f"{_PIN}\nsecond line\n",
        f"{_PIN}\n\n",
        f"\ufeff{_PIN}\n",
    ],
    ids=repr,
)
def test_the_pin_is_the_first_line(tmp_path: Path, content: str) -> None:
    """Line ends, blanks around it, further lines and an editor's byte order mark are no part of the PIN."""
    assert pin.read_file(_pin_file(tmp_path, content)) == Secret(_PIN)


@pytest.mark.parametrize("value", ["two words", "pässwörd", "#1", '"quoted"', "\N{LINE SEPARATOR}x".join("ab")])
def test_a_pin_is_taken_as_it_stands(tmp_path: Path, value: str) -> None:
    """What stands inside the line is the PIN, whatever it looks like."""
    assert pin.read_file(_pin_file(tmp_path, f"{value}\n")) == Secret(value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_for_its_owner_alone_is_taken(tmp_path: Path, mode: int) -> None:
    """Whatever its owner may do with the file is the owner's business."""
    assert pin.read_file(_pin_file(tmp_path, mode=mode)) == Secret(_PIN)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666, 0o440])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """D4: a PIN file that group or others may read, write or execute is refused with its mode and a way to close it."""
    file = _pin_file(tmp_path, mode=mode)
    with pytest.raises(PinExposedError, match=f"{file} is accessible to other users \\(mode {mode:04o}\\)") as caught:
        pin.read_file(file)

    assert caught.value.exit_status == 12
    assert "chmod 600" in caught.value.hint


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    """D4: a link to a file that is open to others does not close it."""
    (tmp_path / "link").symlink_to(_pin_file(tmp_path, mode=0o644))
    with pytest.raises(PinExposedError):
        pin.read_file(tmp_path / "link")


def test_a_missing_file_is_a_missing_pin(tmp_path: Path) -> None:
    """D4: a PIN file that was named and is not there is an error; no other source is tried in its place."""
    with pytest.raises(PinMissingError, match=f"{tmp_path / 'pin'} does not exist"):
        pin.resolve(tmp_path / "pin", {"HSM_ENROLL_PIN": _PIN}, saved_pin=_never, ask=_never)


@pytest.mark.parametrize("content", ["", "\n", " \t\r\n", f"\n{_PIN}\n", "\ufeff\n"], ids=repr)
def test_an_empty_first_line_is_a_missing_pin(tmp_path: Path, content: str) -> None:
    """D4: a file whose first line is empty holds no PIN, and no empty one is tried."""
    with pytest.raises(PinMissingError, match="is empty"):
        pin.read_file(_pin_file(tmp_path, content))


@pytest.mark.parametrize("content", [b"\xff\xfe4\x009\x00", "pässwort".encode("latin-1")])
def test_a_file_that_is_not_text_holds_no_pin(tmp_path: Path, content: bytes) -> None:
    """D4: UTF-16 or Latin-1 is refused, exit status 12, rather than tried as a PIN that would be wrong."""
    with pytest.raises(PinMissingError, match="not valid UTF-8"):
        pin.read_file(_pin_file(tmp_path, content))


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    """D4: a folder, and a path through a file, are StateErrors that name the PIN file."""
    (tmp_path / "folder").mkdir(mode=0o700)
    for path in (tmp_path / "folder", _pin_file(tmp_path) / "below"):
        with pytest.raises(StateError, match=f"{path} cannot be read"):
            pin.read_file(path)


@pytest.mark.parametrize(
    ("content", "mode"), [(f"\n{_PIN}\n", 0o600), (f"{_PIN}ä".encode("latin-1"), 0o600), (f"{_PIN}\n", 0o644)]
)
def test_no_traceback_shows_what_the_file_holds(
    tmp_path: Path, shown_with_locals: Callable[[BaseException], str], content: str | bytes, mode: int
) -> None:
    """D4: whatever is wrong with a PIN file, no frame's locals and no cause hold its content."""
    with pytest.raises(HsmEnrollError) as caught:
        pin.read_file(_pin_file(tmp_path, content, mode))
    shown = shown_with_locals(caught.value)

    assert "read_file" in shown
    assert _PIN not in shown


# Every source gives the same PIN for the same text


def _from_file(folder: Path, text: str) -> Secret:
    return pin.resolve(_pin_file(folder, text), {}, saved_pin=_never, ask=_never)


def _from_credential(folder: Path, text: str) -> Secret:
    return pin.resolve(None, _credentials(folder, text), saved_pin=_never, ask=_never)


def _from_variable(_folder: Path, text: str) -> Secret:
    return pin.resolve(None, {"HSM_ENROLL_PIN": text}, saved_pin=_never, ask=_never)


def _from_person(_folder: Path, text: str) -> Secret:
    return pin.resolve(None, {}, saved_pin=_none, ask=lambda: Secret(text))


def _for_a_new_token(_folder: Path, text: str) -> Secret | None:
    return pin.configured_pin(None, {"HSM_ENROLL_PIN": text})


_SOURCES = [_from_file, _from_credential, _from_variable, _from_person, _for_a_new_token]


@pytest.mark.parametrize("read", _SOURCES)
@pytest.mark.parametrize("text", [f"{_PIN}\n", f"{_PIN}\r\n", f" {_PIN}\t", f"\ufeff{_PIN}", f"{_PIN}\nmore"], ids=repr)
def test_d23_every_source_is_cleaned_alike(
    tmp_path: Path, read: Callable[[Path, str], Secret | None], text: str
) -> None:
    """D23: line end, blanks and byte order mark are no part of the PIN, so that a token's PIN fits into any source."""
    assert read(tmp_path, text) == Secret(_PIN)


@pytest.mark.parametrize("read", _SOURCES)
@pytest.mark.parametrize(
    "text", [f"{_PIN}\0", f"\0{_PIN}", f"4\0{_PIN}", f"{_PIN}\r{_PIN}", f"\x1b{_PIN}", "\n", "\ufeff"]
)
def test_d23_a_pin_that_cannot_be_meant_is_not_tried(
    tmp_path: Path,
    read: Callable[[Path, str], Secret | None],
    text: str,
) -> None:
    """D23: a control character in the PIN, or nothing but a line end, is exit 12 in every source, and not shown."""
    with pytest.raises(PinMissingError, match=r"contains a control character, so it was not tried|is empty") as caught:
        read(tmp_path, text)
    assert caught.value.exit_status == 12
    assert _PIN not in "".join(format_exception(caught.value))


def test_d23_a_new_token_gets_no_other_pin_than_the_credential(tmp_path: Path) -> None:
    """D23: a credential without a PIN is an error also where a PIN could be generated instead."""
    with pytest.raises(PinMissingError, match="is empty"):
        pin.configured_pin(None, _credentials(tmp_path, "\n"))


# PINs made here


def test_a_made_pin_is_long_enough_to_guess_at_forever() -> None:
    """A made PIN is of more than 100 bits: its length times the bits of an alphabet that each place uses whole."""
    draws = [pin.generate_pin().reveal() for _ in range(1_000)]
    (length,) = {len(draw) for draw in draws}
    alphabet = set("".join(draws))

    assert length * math.log2(len(alphabet)) > 100
    assert all(len({draw[place] for draw in draws}) == len(alphabet) for place in range(length))


def test_a_made_pin_never_comes_twice() -> None:
    """1,000 draws are 1,000 PINs."""
    assert len({pin.generate_pin().reveal() for _ in range(1_000)}) == 1_000


def test_a_made_pin_is_not_of_the_predictable_kind() -> None:
    """Seeding Python's own generator does not repeat a PIN."""
    random.seed(1)
    first = pin.generate_pin()
    random.seed(1)
    assert pin.generate_pin() != first


def test_a_made_pin_can_be_read_aloud_and_typed() -> None:
    """A made PIN is of small letters and digits, none of which looks like another."""
    drawn = set("".join(pin.generate_pin().reveal() for _ in range(1_000)))

    assert all(character.isascii() and (character.islower() or character.isdigit()) for character in drawn)
    assert not drawn & set("0o1li")


def test_a_made_pin_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    """The kept PIN is a file of mode 0600 with the PIN and no line end, which other programs would try, too."""
    made = pin.generate_pin()
    file = pin.save_pin(tmp_path, made)

    assert file == pin.saved_pin_file(tmp_path) == tmp_path / "pin"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert pin.read_file(file) == made
    assert file.read_bytes() == made.reveal().encode()


@pytest.mark.parametrize("there", ["file", "folder", "dangling link"])
def test_a_kept_pin_is_not_overwritten(tmp_path: Path, there: str) -> None:
    """The PIN of another token is worth that token: whatever lies in its place stays, and the error says what to do."""
    file = pin.saved_pin_file(tmp_path)
    if there == "file":
        pin.save_pin(tmp_path, Secret("first"))
    elif there == "folder":
        file.mkdir()
    else:
        file.symlink_to(tmp_path / "nowhere")
    before = os.lstat(file)
    with pytest.raises(StateError, match=str(file)) as caught:
        pin.save_pin(tmp_path, Secret("second"))

    assert os.lstat(file) == before
    assert "HSM_ENROLL_PIN_FILE" in caught.value.hint
    assert {entry.name for entry in tmp_path.iterdir()} == {"pin"}


@pytest.mark.usefixtures("broken_disk")
def test_a_pin_that_cannot_be_kept_is_shown_nowhere(
    tmp_path: Path, shown_with_locals: Callable[[BaseException], str]
) -> None:
    """D4, D11: when the disk fails, the error, its causes and every frame's locals are without the PIN."""
    with pytest.raises(StateError) as caught:
        pin.save_pin(tmp_path, Secret(_PIN))
    shown = shown_with_locals(caught.value)

    assert "[redacted]" in shown
    assert _PIN not in shown
    assert list(tmp_path.iterdir()) == []


# Which token it was made for


@pytest.mark.parametrize("token", [_TOKEN, _TOKEN._replace(label="Tür 中", serial="", module=Path("/opt/Ü b.so"))])
def test_the_token_of_a_made_pin_is_remembered(tmp_path: Path, token: TokenName) -> None:
    """The token that a PIN was made for is read back as it was."""
    assert pin.load_owner(tmp_path) is None
    pin.save_owner(tmp_path, token)
    assert pin.load_owner(tmp_path) == token


def test_a_made_pin_is_given_for_its_token(tmp_path: Path) -> None:
    """The kept PIN is found for the token it was made for, also where its module has moved."""
    pin.save_pin(tmp_path, Secret(_PIN))
    pin.save_owner(tmp_path, _TOKEN)

    assert pin.saved_pin(tmp_path, _TOKEN) == Secret(_PIN)
    assert pin.saved_pin(tmp_path, _TOKEN._replace(module=Path("/opt/softhsm2.so"))) == Secret(_PIN)


@pytest.mark.parametrize("other", [_TOKEN._replace(label="another"), _TOKEN._replace(serial="fedcba9876543210")])
def test_a_made_pin_is_tried_on_no_other_token(tmp_path: Path, other: TokenName) -> None:
    """D1: a token of another label or serial gets no PIN from here, for a wrong one may lock it."""
    pin.save_pin(tmp_path, Secret(_PIN))
    pin.save_owner(tmp_path, _TOKEN)
    assert pin.saved_pin(tmp_path, other) is None


def test_a_pin_of_an_unknown_token_is_not_tried(tmp_path: Path) -> None:
    """D1: a kept PIN without a note of its token is tried on none."""
    pin.save_pin(tmp_path, Secret(_PIN))
    assert pin.saved_pin(tmp_path, _TOKEN) is None


def test_a_made_pin_is_certain_until_its_token_refuses_it(tmp_path: Path) -> None:
    """D1: the last try may be used for the PIN of a finished token, unless that token has refused it before."""
    pin.save_pin(tmp_path, pin.generate_pin())
    pin.save_owner(tmp_path, _TOKEN._replace(serial=""))
    assert not _saved(tmp_path).origin.is_certain
    pin.save_owner(tmp_path, _TOKEN)
    saved = _saved(tmp_path)
    assert saved.origin.is_certain
    assert saved.origin.distrust is not None
    saved.origin.distrust()
    assert not _saved(tmp_path).origin.is_certain
    pin.save_owner(tmp_path, _TOKEN)
    assert _saved(tmp_path).origin.is_certain


@pytest.mark.parametrize("edit", [lambda _: "{", lambda made: made[:-1], lambda made: f"{made[:-1]}!"])
def test_a_made_pin_whose_file_was_damaged_is_not_certain(tmp_path: Path, edit: Callable[[str], str]) -> None:
    """D1: what cannot be a generated PIN would be a wrong one, and must not be the try that locks a TPM."""
    made = pin.generate_pin()
    pin.save_owner(tmp_path, _TOKEN)
    pin.save_pin(tmp_path, Secret(edit(made.reveal())))
    assert not _saved(tmp_path).origin.is_certain


def _saved(folder: Path) -> Pin:
    saved = pin.saved_pin(folder, _TOKEN)
    assert saved is not None
    return saved


def test_the_place_of_a_made_pin_that_is_gone_is_a_persons(tmp_path: Path) -> None:
    """D4: whoever can be asked may type the PIN that is gone; where nobody can, the error names the file and a way."""
    pin.save_owner(tmp_path, _TOKEN)
    saved = partial(pin.saved_pin, tmp_path, _TOKEN)
    assert pin.resolve(None, {}, saved_pin=saved, ask=lambda: Secret("typed")) == Secret("typed")
    with pytest.raises(PinMissingError, match=f"saved in {tmp_path}/pin is gone") as caught:
        pin.resolve(None, {}, saved_pin=saved, ask=None)
    assert "HSM_ENROLL_PIN_FILE" in caught.value.hint


def test_a_made_pin_that_only_the_services_have_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has encrypted the PIN for the services and removed it, as the page says, is told how to see it again."""
    encrypted = tmp_path / "hsm-enroll.pin"
    monkeypatch.setattr(pin, "ENCRYPTED", encrypted)
    pin.save_owner(tmp_path, _TOKEN)
    with pytest.raises(PinMissingError) as before:
        pin.saved_pin(tmp_path, _TOKEN)
    encrypted.touch()
    with pytest.raises(PinMissingError) as after:
        pin.saved_pin(tmp_path, _TOKEN)
    assert "the token's keys are lost" in before.value.hint
    assert after.value.hint.endswith(f"systemd-creds decrypt --name=hsm-enroll.pin {encrypted} -")
    assert "lost" not in after.value.hint


def test_a_pin_knows_where_it_came_from(tmp_path: Path) -> None:
    """D1: each source names itself, so that a wrong PIN can be corrected there; only the saved one is certain."""
    pin.save_pin(tmp_path, pin.generate_pin())
    pin.save_owner(tmp_path, _TOKEN)
    credentials = _credentials(tmp_path, _PIN)
    file = _pin_file(tmp_path)
    found = [
        pin.resolve(file, {}, saved_pin=_never, ask=_never),
        pin.resolve(None, credentials, saved_pin=_never, ask=_never),
        pin.resolve(None, {"HSM_ENROLL_PIN": _PIN}, saved_pin=_never, ask=_never),
        pin.resolve(None, {}, saved_pin=partial(pin.saved_pin, tmp_path, _TOKEN), ask=_never),
        pin.resolve(None, {}, saved_pin=_none, ask=lambda: Secret(_PIN)),
    ]
    assert [(source.origin.text, source.origin.is_certain) for source in found] == [
        (f"the PIN in the file {file}", False),
        (f"the PIN in the systemd credential {credentials['CREDENTIALS_DIRECTORY']}/hsm-enroll.pin", False),
        ("the PIN in HSM_ENROLL_PIN", False),
        (f"the PIN that token create saved in {tmp_path}/pin", True),
        ("the PIN you typed", False),
    ]


def test_a_second_token_is_told_whose_pin_is_in_the_way(tmp_path: Path) -> None:
    """Where the state folder has a token's PIN already, the error names that token, and both ways on."""
    pin.save_pin(tmp_path, Secret(_PIN))
    pin.save_owner(tmp_path, _TOKEN)
    with pytest.raises(StateError, match=f"pin has the PIN of token 'gateway' in {_TOKEN.module}") as caught:
        pin.save_pin(tmp_path, Secret("other"))
    assert "HSM_ENROLL_PIN_FILE" in caught.value.hint
    assert f"mv {tmp_path}/pin {tmp_path}/pin.old" in caught.value.hint


def test_a_made_pin_that_is_gone_is_missing(tmp_path: Path) -> None:
    """D4: a note of a token whose PIN file was taken away is PinMissingError, not silence."""
    pin.save_owner(tmp_path, _TOKEN)
    with pytest.raises(PinMissingError, match=str(pin.saved_pin_file(tmp_path))):
        pin.saved_pin(tmp_path, _TOKEN)


def test_a_made_pin_that_was_opened_is_refused(tmp_path: Path) -> None:
    """D4: somebody who opened the kept PIN to others is told, as with any PIN file."""
    pin.save_pin(tmp_path, Secret(_PIN)).chmod(0o644)
    pin.save_owner(tmp_path, _TOKEN)
    with pytest.raises(PinExposedError):
        pin.saved_pin(tmp_path, _TOKEN)


@pytest.mark.parametrize("name", ["module", "label", "serial", "manufacturer", "model"])
@pytest.mark.parametrize("damage", ["missing", None, 7, ["gateway"]], ids=repr)
def test_a_damaged_note_is_corrupt(tmp_path: Path, name: str, damage: object) -> None:
    """D12: a note that lacks a member, or has one of another type, is corrupt, and no PIN is given."""
    pin.save_pin(tmp_path, Secret(_PIN))
    pin.save_owner(tmp_path, _TOKEN)
    (file,) = {entry for entry in tmp_path.iterdir() if entry.suffix == ".json"}
    document = json.loads(file.read_text())
    document[name] = damage
    if damage == "missing":
        del document[name]
    file.write_text(json.dumps(document))
    with pytest.raises(StateCorruptError, match=str(file)) as caught:
        pin.saved_pin(tmp_path, _TOKEN)
    # Without the note, the PIN's file is one like any other.
    assert f"set HSM_ENROLL_PIN_FILE to the PIN's own file, {pin.saved_pin_file(tmp_path)}" in caught.value.hint
    assert pin.read_file(pin.saved_pin_file(tmp_path)).reveal() == _PIN


_BEGUN = TokenName(_TOKEN.module, _TOKEN.label, serial="", manufacturer="", model="")


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (_BEGUN, _TOKEN, True),
        (_TOKEN, _TOKEN, True),
        (_BEGUN, _BEGUN._replace(label="another"), False),
        (_TOKEN, _BEGUN, False),
    ],
    ids=["completed", "unchanged", "another", "anew"],
)
def test_the_note_of_the_same_token_keeps_what_a_newer_version_has_added(
    tmp_path: Path, before: TokenName, after: TokenName, kept: bool
) -> None:
    """D12: a note that is completed keeps members that this version does not know; a new token's note has none."""
    pin.save_owner(tmp_path, before)
    file = tmp_path / "token.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "later": 5}))
    pin.save_owner(tmp_path, after)

    assert pin.load_owner(tmp_path) == after
    assert json.loads(file.read_text()).get("later") == (5 if kept else None)
