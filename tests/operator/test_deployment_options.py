"""The options of ``backend deploy`` that set parameters and tags: checked where they are named, kept where not."""

from __future__ import annotations

import json

import click
import pytest

from hsm_enroll.cli import backend as command
from hsm_enroll.errors import UsageError
from hsm_enroll.operator import est_domain
from tests.operator.deploying import UNKNOWN_TO_MOTO, client
from tests.support import documents
from tests.support.pages import page

pytestmark = [
    pytest.mark.usefixtures("account", "quick_build"),
    pytest.mark.filterwarnings(UNKNOWN_TO_MOTO),
]

KEY = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
TOPIC = "arn:aws:sns:eu-central-1:123456789012:on-call"
CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/1234abcd-12ab-34cd-56ef-1234567890ab"
BOUNDARY = "arn:aws:iam::123456789012:policy/hsm-enroll-boundary"


def run(*arguments: str) -> None:
    """Run ``hsm-enroll backend deploy`` with arguments."""
    command.backend.main(["deploy", "--yes", *arguments], prog_name="backend", standalone_mode=False)


def parameters() -> dict[str, str]:
    """Return the parameters of the deployed stack."""
    (there,) = client("cloudformation").describe_stacks(StackName="hsm-enroll")["Stacks"]
    return {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in there["Parameters"]}


def test_each_option_is_a_parameter_and_is_kept() -> None:
    """What is named becomes the parameter's value, and later deployments that do not name it leave it."""
    run("--edge", "--existing-things", "--certificate-rate", "40", "--sweep-limit", "0", "--kms-key", KEY)
    run("--throttle-rate", "400", "--throttle-burst", "150", "--reserved-concurrency", "200", "--address-limit", "50")
    run("--alarm-email", "ops@example.com", "--alarm-topic", TOPIC, "--tag", "team=factory", "--tag", "note=a=b")
    run("--renewal-days", "0", "--delete-retired-things", "--attestation", "require")
    expected = {
        "Edge": "yes",
        "AllowExistingThings": "yes",
        "Attestation": "require",
        "CertificateRate": "40",
        "SweepLimit": "0",
        "RenewalDays": "0",
        "DeleteThingOnRetirement": "yes",
        "ThrottleRate": "400",
        "ThrottleBurst": "150",
        "ReservedConcurrency": "200",
        "AddressLimit": "50",
        "KmsKey": KEY,
        "AlarmEmail": "ops@example.com",
        "AlarmTopic": TOPIC,
    }
    assert expected.items() <= parameters().items()
    (there,) = client("cloudformation").describe_stacks(StackName="hsm-enroll")["Stacks"]
    assert {tag["Key"]: tag["Value"] for tag in there["Tags"]} == {"team": "factory", "note": "a=b"}


def test_what_was_turned_on_can_be_turned_off() -> None:
    """The opposite of each switch, and the word none."""
    on = ("--edge", "--existing-things", "--delete-retired-things")
    run(*on, "--kms-key", KEY, "--alarm-email", "ops@example.com", "--alarm-topic", TOPIC)
    off = ("--kms-key", "none", "--alarm-email", "none", "--alarm-topic", "none")
    run("--no-edge", "--no-existing-things", "--keep-retired-things", *off)
    there = parameters()
    assert {there[name] for name in ("Edge", "AllowExistingThings", "DeleteThingOnRetirement")} == {"no"}
    assert (there["KmsKey"], there["AlarmEmail"], there["AlarmTopic"]) == ("", "", "")


def test_what_the_page_raises_for_a_million_is_set() -> None:
    """The command of docs/scale.md, as it stands there, and with the values that the page calculates."""
    (block,) = (block for block in page("docs/scale.md").blocks_of("sh") if "--throttle-rate" in block.text)
    run(*block.text.removeprefix("hsm-enroll backend deploy").split())
    there = parameters()
    raised = {name: there[name] for name in ("CertificateRate", "ThrottleRate", "ThrottleBurst", "ReservedConcurrency")}
    assert raised == {
        "CertificateRate": "142",
        "ThrottleRate": "400",
        "ThrottleBurst": "200",
        "ReservedConcurrency": "200",
    }


def test_the_role_gets_the_permissions_boundary_and_loses_it_again() -> None:
    """From the first deployment on, so that somebody who may create only bounded roles can deploy."""
    run("--permissions-boundary", BOUNDARY)
    assert parameters()["PermissionsBoundary"] == BOUNDARY
    (role,) = client("iam").list_roles()["Roles"]
    bounded = client("iam").get_role(RoleName=role["RoleName"])["Role"]
    assert bounded["PermissionsBoundary"]["PermissionsBoundaryArn"] == BOUNDARY
    run("--permissions-boundary", "none")
    assert parameters()["PermissionsBoundary"] == ""


def test_a_burst_above_the_concurrency_is_refused() -> None:
    """The requests in between would fail with 503. Both can be raised together; without a reservation any is taken."""
    run("--quiet")
    for arguments in (("--throttle-burst", "21"), ("--reserved-concurrency", "19")):
        with pytest.raises(UsageError, match="above the concurrency"):
            run(*arguments)
    assert parameters()["ThrottleBurst"] == "20"
    run("--throttle-burst", "21", "--reserved-concurrency", "21")
    run("--throttle-burst", "50", "--reserved-concurrency", "0")
    assert parameters()["ThrottleBurst"] == "50"


def test_ests_domain_name_needs_a_certificate_and_a_truststore() -> None:
    """API Gateway would refuse it after minutes. What was given before counts; and without a name neither is needed."""
    certificate, truststore = ("--est-certificate", CERTIFICATE), ("--est-truststore", "s3://bucket/cas.pem")
    for arguments in ((), certificate, truststore):
        with pytest.raises(UsageError, match=r"est\.example\.com needs a certificate and a truststore"):
            run("--est-domain", "est.example.com", *arguments)
    run(*certificate, *truststore)
    run("--est-domain", "none")
    there = parameters()
    given = {name: there[name] for name in ("EstDomainName", "EstCertificate", "EstTruststore")}
    assert given == {"EstDomainName": "", "EstCertificate": CERTIFICATE, "EstTruststore": "s3://bucket/cas.pem"}
    est_domain.check({**there, "EstDomainName": "est.example.com"})  # moto knows no domain names


def test_the_cname_of_ests_domain_name_is_told() -> None:
    """Nothing works before DNS has it; a deployment without such a name says nothing."""
    told = est_domain.notes({"EstDomainName": "est.example.com"}, {"EstTarget": "d-1.example"})
    assert told == ["DNS has to have est.example.com as a CNAME of d-1.example"]
    assert est_domain.notes({"EstDomainName": ""}, {}) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--est-domain", "localhost"),
        ("--est-certificate", "est.example.com"),
        ("--est-truststore", "https://example.com/cas.pem"),
        ("--alarm-email", "nobody"),
        ("--alarm-topic", "on-call"),
        ("--kms-key", "alias/ledger"),
        ("--permissions-boundary", "hsm-enroll-boundary"),
        ("--sweep-limit", "-1"),
        ("--renewal-days", "-1"),
        ("--certificate-rate", "0"),
        ("--throttle-rate", "0"),
        ("--throttle-burst", "0"),
        ("--reserved-concurrency", "-1"),
        ("--address-limit", "9"),
        ("--tag", "team"),
        ("--tag", "=factory"),
        ("--tag", "aws:team=factory"),
    ],
)
def test_what_aws_would_refuse_is_refused_at_once(arguments: tuple[str, str]) -> None:
    """Before anything is built or uploaded; the message repeats what was given."""
    with pytest.raises(click.UsageError):
        run(*arguments)
    assert client("s3").list_buckets()["Buckets"] == []


def test_another_address_of_the_api_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a stack that never had the setting; an unchanged one is none."""
    run("--quiet")
    run("--edge")
    assert "warning: the API gets another address" in capsys.readouterr().err
    run("--edge", "--sweep-limit", "3")
    assert "another address" not in capsys.readouterr().err


def test_a_sweep_that_is_held_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the question: nothing else would remind of it. Letting it run again is none."""
    run("--quiet")
    run("--no-sweep")
    assert "warning: the sweep is held" in capsys.readouterr().err
    run("--sweep")
    assert "the sweep is held" not in capsys.readouterr().err


def test_settings_and_tags_that_change_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """To a person with the value before and after; to a script in the plan."""
    run("--quiet", "--tag", "line=3")
    capsys.readouterr()
    run("--sweep-limit", "7", "--alarm-email", "ops@example.com", "--tag", "line=4", "--tag", "site=Ulm")
    lines = capsys.readouterr().err.splitlines()
    assert {"  set SweepLimit: 20 -> 7", "  set tag line: 3 -> 4", "  set tag site: none -> Ulm"} <= set(lines)
    assert "  set AlarmEmail: none -> ops@example.com" in lines
    run("--json", "--tag", "site=Jena")
    changes = documents.read(["backend", "deploy"], capsys.readouterr().out)["changes"]
    assert {"name": "tag site", "before": "Ulm", "after": "Jena"} in changes["settings"]
    assert json.dumps(changes).count('"tag ') == 1
