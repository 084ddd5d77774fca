"""How tpm2-pkcs11 reaches the TPM: the TCTI, the kernel's device, tpm2-abrmd; and what is wrong on the way."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll.token.fault import Fault, barrier, group_name, user_name
from hsm_enroll.token.tpm2 import dbus, tools

# Which TPM, as a TCTI (TCG TSS 2.0 TPM Command Transmission Interface); without it, the first that responds.
VARIABLE = "TPM2_PKCS11_TCTI"
MANAGED_DEVICE = Path("dev/tpmrm0")
BARE_DEVICE = Path("dev/tpm0")
_EMULATORS = {"swtpm", "mssim", "libtpms"}
_BUSES = {"i2c-ftdi", "i2c-helper", "spi-ftdi", "spi-helper", "spi-ltt2go"}
# TCTIs without a resource manager.
UNMANAGED = frozenset(_EMULATORS | _BUSES)
ABRMD = "tabrmd"
# tcti-tabrmd's default, which bus_name= overrides.
_SERVICE = "com.intel.tss2.Tabrmd"
_TIME_LIMIT_SECONDS = 3.0
_GROUP_HINT = "Join the group {group} (usermod --append --groups {group} USER) and log in again, or run as root."
_START_HINT = "Start it (systemctl start tpm2-abrmd), and see why it ended: journalctl -u tpm2-abrmd"


def connection(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the TCTI's name and configuration, from ``NAME``, ``NAME:CONFIGURATION`` or a library's file.

    Both are empty if no TCTI is set.
    """
    kind, _, place = environment.get(VARIABLE, "").partition(":")
    file = Path(kind).name
    if file.startswith("libtss2-tcti-"):
        kind = file.removeprefix("libtss2-tcti-").partition(".so")[0]
    return kind, place


def fault(environment: Mapping[str, str], root: Path) -> Fault | None:
    """Find out why the TPM cannot be reached; None if nothing is found.

    Args:
        environment: what the module reads.
        root: the root of the file system.
    """
    kind, place = connection(environment)
    if kind == "":
        # tpm2-tss prefers a running tpm2-abrmd to the device.
        device = device_fault(root / MANAGED_DEVICE, root / BARE_DEVICE)
        return None if device is None or abrmd_fault(environment) is None else device
    if kind == "device":
        return device_fault(Path(place) if place else root / MANAGED_DEVICE, None if place else root / BARE_DEVICE)
    return library_fault(environment) or (abrmd_fault(environment) if kind == ABRMD else None)


def library_fault(environment: Mapping[str, str]) -> Fault | None:
    """Return the fault of a TCTI whose library cannot be loaded, by the names that tpm2-tss tries (tctildr-dl.c)."""
    kind, _ = connection(environment)
    for name in (f"libtss2-tcti-{kind}.so.0", f"libtss2-tcti-{kind}.so", kind, f"libtss2-{kind}.so.0"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return None
    return Fault(
        f"{VARIABLE}={environment[VARIABLE]} names a TCTI that is not installed",
        f"Correct it, for example {VARIABLE}=device:/dev/tpmrm0, or install its library, libtss2-tcti-{kind}.so.0.",
    )


def silence() -> Fault | None:
    """Ask the TPM itself, if tpm2-tools is installed; None if it responds, or cannot be asked."""
    asked = tools.run("tpm2_getcap", "properties-fixed")
    if asked is None or asked.succeeded:
        return None
    return Fault(f"the TPM does not respond: {asked.complaint}", "See the kernel's messages: dmesg | grep -i tpm")


def device_fault(device: Path, bare: Path | None) -> Fault | None:
    """Return why this user cannot use a device; None if it can be opened, or fails for a reason that is not known.

    Args:
        device: the device, normally behind the kernel's resource manager.
        bare: the device without a resource manager, if it may exist in the other's absence.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return _without_device(device, bare)
    except PermissionError:
        return _closed(device)
    except OSError as error:
        return Fault(f"the TPM cannot be used ({device}): {error.strerror}", "See the kernel's messages: dmesg")
    return None


def abrmd_fault(environment: Mapping[str, str]) -> Fault | None:
    """Ask tpm2-abrmd over D-Bus whether it is alive, which starts it where D-Bus may; None if it answers."""
    options = dict(option.partition("=")[::2] for option in connection(environment)[1].split(","))
    session = options.get("bus_type") == "session"
    name = "session" if session else "system"
    try:
        bus = dbus.address(environment, session=session)
        refusal = dbus.ping(bus, options.get("bus_name", _SERVICE), time_limit=_TIME_LIMIT_SECONDS)
    except dbus.BusUnreachableError as error:
        place = f" at {bus}" if bus else ""
        hint = "Set DBUS_SESSION_BUS_ADDRESS to that bus." if session else "Start D-Bus, then tpm2-abrmd."
        return Fault(f"tpm2-abrmd cannot be reached: the {name} bus{place} cannot be used: {error}", hint)
    if refusal is None:
        return None
    if refusal == TimeoutError.__name__:
        message = f"the TPM's resource manager tpm2-abrmd does not respond within {_TIME_LIMIT_SECONDS:.0f} s"
        return Fault(message, "Restart it: systemctl restart tpm2-abrmd")
    if refusal.endswith(".AccessDenied"):
        message = f"{user_name(os.geteuid())} has no permission to use tpm2-abrmd on the {name} bus"
        return Fault(message, _GROUP_HINT.format(group="tss"))
    return Fault(f"the TPM's resource manager tpm2-abrmd is not running on the {name} bus", _START_HINT)


def _closed(device: Path) -> Fault:
    closed = barrier(device)
    found = closed.stat()
    message = f"{user_name(os.geteuid())} has no permission to use the TPM ({device})"
    if closed == device:
        return Fault(message, _GROUP_HINT.format(group=group_name(found.st_gid)))
    return Fault(f"{message}: it may not enter {closed}", f"Run the command as {user_name(found.st_uid)}.")


def _without_device(device: Path, bare: Path | None) -> Fault:
    if bare is not None and bare.exists():
        return Fault(
            f"the TPM has no resource manager: {bare} exists, but {device} does not",
            "Linux has one for TPM 2.0 since version 4.12; on older kernels use tpm2-abrmd. A TPM 1.2 is not "
            "supported.",
        )
    return Fault(
        f"there is no TPM: {device} does not exist",
        "Check that the TPM is enabled in the firmware's setup and its driver is loaded (dmesg | grep -i tpm). "
        f"For a TPM without a device file, set {VARIABLE}.",
    )
