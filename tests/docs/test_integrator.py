"""What docs/integrator.md says of other programs, and of AWS's older SDK: each setting exists, on both sides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient

from hsm_enroll import settings
from hsm_enroll.device import pin
from hsm_enroll.device.export import PROGRAMS
from hsm_enroll.device.export.gathering import gather
from hsm_enroll.settings import Settings
from tests.support.identities import identity
from tests.support.pages import ROOT, code, page
from tests.support.self_signed import pem, self_signed

_PAGE = page("docs/integrator.md")
_ARTICLE = (ROOT / "tests/e2e/article/client.py").read_text(encoding="utf-8")


def test_every_setting_of_the_article_has_one_of_ours() -> None:
    """The table maps each call by which the article's client configures its queue to a setting that there is."""
    rows = _PAGE.table("AWSIoTPythonSDK")
    calls = [code(row[0])[0] for row in rows]
    for call in re.findall(r"configure(?:Offline|Draining|Connect|MQTT)\w+\(\S+\)", _ARTICLE):
        assert call in calls
    for call in calls:
        assert hasattr(AWSIoTMQTTClient, call.partition("(")[0])
    for row in rows:
        assert code(row[1])[0].partition(" ")[0] in Settings._fields


def test_the_articles_settings_are_read(tmp_path: Path) -> None:
    """The example has what the article's client sets, and what the table says about the defaults is so."""
    (block,) = _PAGE.blocks_of("toml")
    (tmp_path / "config.toml").write_text(block.text)
    read = settings.load({"HSM_ENROLL_HOME": str(tmp_path)}, {})
    assert read.outbox_bytes == 1024**3
    assert (read.draining_rate, read.connect_timeout, read.operation_timeout) == (2, 10, 5)
    default = Settings(state=tmp_path)
    assert (default.outbox_when_full, default.draining_rate) == ("refuse", 100)
    assert (default.connect_timeout, default.operation_timeout) == (20, 20)


def test_the_programs_are_those_of_export(tmp_path: Path) -> None:
    """The table has each program with the files that are written for it."""
    rows = {code(row[0])[0]: code(row[1]) for row in _PAGE.table("`export`")}
    assert set(rows) == set(PROGRAMS)
    trusted = tmp_path / "ca.pem"
    trusted.write_text(pem(self_signed()))
    example = gather(identity(), Settings(state=tmp_path, ca_file=trusted), {}, Path("/usr/bin/hsm-enroll"))
    for name, made in PROGRAMS.items():
        assert [file.name for file in made(example) if file.text] == rows[name]


def test_the_drop_in_for_stunnel_exports_what_it_starts() -> None:
    """The unit of systemd writes its configuration by a command of ours, and starts stunnel with that file."""
    text = next(block.text for block in _PAGE.blocks_of("ini") if "stunnel" in block.text)
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    folder = f"/run/{lines['RuntimeDirectory']}"
    assert lines["ExecStartPre"] == f"/usr/bin/hsm-enroll export stunnel --output {folder}"
    assert lines["ExecStart"] == f"/usr/bin/stunnel4 {folder}/stunnel.conf"
    assert lines["LoadCredentialEncrypted"] == pin.ENCRYPTED.name


@pytest.mark.parametrize(
    "row", [row for row in _PAGE.table("AWSIoTPythonSDK") if " = " in row[1]], ids=lambda row: row[1]
)
def test_each_line_of_the_table_is_a_line_of_the_configuration(tmp_path: Path, row: list[str]) -> None:
    """What stands beside the SDK's call can be copied into config.toml."""
    (tmp_path / "config.toml").write_text(code(row[1])[0])
    settings.load({"HSM_ENROLL_HOME": str(tmp_path)}, {})
