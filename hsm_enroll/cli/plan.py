"""What a deployment is about to change, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hsm_enroll.backend_api.answer import printable

if TYPE_CHECKING:
    from hsm_enroll.operator.change_set import Plan, ResourceChange, SettingChange
    from hsm_enroll.operator.device_policy import Change, Rule

REFUSAL_HINT = (
    "Nothing was changed. Without its ledger a deployment knows no device that was enrolled before, and cannot revoke "
    "one. If that is what you want, deploy with --allow-data-loss."
)

_WORDS = {
    "modify": "change",
    "replace": "replace",
    "may-replace": "change or replace",
    "remove": "delete",
    "unknown": "change in a way that is not known",
}
_DEVICE_POLICY = "DevicePolicyDocument"
_ROLE_POLICY, _ROLE_ALIAS = "RolePolicyDocument", "RoleAlias"
_OF_THE_CODE = {"CodeKey", "CodeVersion"}  # another zip is shown as a change of the functions
_OF_AN_ACCOUNT = re.compile(r"^arn:[^:]*:iot:[^:]*:[^:]*:")
_LONGEST_VALUE = 40
_SHOWN = 12


def text(plan: Plan) -> str:
    """Return the whole plan, several lines."""
    where = f"{plan.stack} in {plan.region}, account {plan.account_id}"
    lines = [f"This creates the stack {where}:" if plan.creates else f"This changes the stack {where}:"]
    new = [change.resource for change in plan.resources if change.action == "add"]
    if new:
        lines.append(f"  create {', '.join(new)}")
    lines += [f"  {_changed(change)}" for change in plan.resources if change.action != "add"]
    lines += [f"  set {_set(change)}" for change in plan.settings if change.name not in _OF_THE_CODE]
    if len(lines) == 1:
        lines.append("  only its outputs, or what the template says about it")
    return "\n".join([*lines, *_for_devices(plan.policy_change)])


def warnings(plan: Plan) -> Iterator[str]:
    """Yield what is worth a warning: a sentence each."""
    if plan.changes_api:
        yield (
            "the API gets another address: create new invites, and set it on devices that enroll without one; "
            "enrolled devices keep working"
        )
    if any((change.name, change.after) == ("Sweep", "no") for change in plan.settings):
        yield (
            "the sweep is held: certificates that nobody may use stay active until a deployment with --sweep lets it "
            "run again"
        )
    if any(change.name == _ROLE_ALIAS and change.before for change in plan.settings):
        yield (
            "devices that know the present role alias get no AWS credentials, unless they are told of the new one by "
            "hsm-enroll recover or the next renewal"
        )
    for change in plan.resources:
        if change.moves_api and not plan.changes_api:
            yield (
                f"{change.resource} may get another address: invites that are not used yet, and devices that know the "
                "present one, no longer reach the API"
            )


def refusal(plan: Plan) -> str:
    """Return why a plan that would lose data is not carried out."""
    losses = "; ".join(f"{_WORDS[change.action]} {change.resource} ({_kind(change)})" for change in plan.losses)
    return f"deploying to {plan.stack} would leave the present ledger or device policy behind: {losses}"


def _changed(change: ResourceChange) -> str:
    properties = f": {', '.join(change.properties)}" if change.properties else ""
    return f"{_WORDS[change.action]} {change.resource} ({_kind(change)}){properties}"


def _kind(change: ResourceChange) -> str:
    return change.kind.removeprefix("AWS::").replace("::", " ")


def _set(change: SettingChange) -> str:
    if change.name == _DEVICE_POLICY:
        return f"the device policy: {'your own' if change.after else 'the built-in one'}"
    if change.name == _ROLE_POLICY:
        return f"what devices may do with AWS credentials: {_replaced(change)}"
    missing = "none" if change.name.startswith("tag ") else "the default"
    before, after = (missing if value is None else _shown(value) or "none" for value in (change.before, change.after))
    return f"{change.name}: {before} -> {after}"


def _replaced(change: SettingChange) -> str:
    if not change.after:
        return "nothing"
    return "another policy" if change.before else "as the policy says"


def _shown(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_SHOWN]}..."


def _for_devices(change: Change | None) -> list[str]:
    """Return what changes for devices: a paragraph, then one line per resource; nothing if nothing does."""
    if change is None or not (change.removed or change.added):
        return []
    lines = [
        "This changes what devices may do, also those that are enrolled: the policy is",
        "updated in place, and their certificates stay. AWS IoT takes up to 8 minutes.",
        *_grants("gone", change.removed),
        *_grants("new", change.added),
    ]
    if _allows(change.removed, "topic/<thing>/*") and _allows(change.added, "topic/device/<thing>/*"):
        lines += [
            "Topics under <thing>/ are refused from then on; device/<thing>/ takes their",
            "place. Update the programs on your devices that use them.",
        ]
    return lines


def _grants(word: str, rules: Iterable[Rule]) -> Iterator[str]:
    actions: dict[str, list[str]] = {}
    for rule in rules:
        conditions = [
            f" if {key} {'is' if operator == 'Bool' else operator} {' or '.join(values)}"
            for operator, key, values in rule.condition
        ]
        where = f"on {_place(rule)}{printable(''.join(conditions))}"
        denied = "deny " if rule.effect == "Deny" else ""
        actions.setdefault(where, []).append(denied + printable(rule.action.removeprefix("iot:")))
    for where, names in actions.items():
        yield f"  {word:<4} {', '.join(names)} {where}"


def _allows(rules: Iterable[Rule], place: str) -> bool:
    return any(rule.effect == "Allow" and _place(rule) == place for rule in rules)


def _place(rule: Rule) -> str:
    from hsm_enroll.operator.device_policy import short

    return short(_OF_AN_ACCOUNT.sub("", rule.resource))
