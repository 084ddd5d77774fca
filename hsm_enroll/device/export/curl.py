"""curl's configuration: the key by OpenSSL's engine for PKCS#11."""

from __future__ import annotations

from hsm_enroll.device.export.values import MODULE_VARIABLE, Exported, File, header

# curl(1), --config: within quotes, these have a backslash before them.
_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"'})


def files(exported: Exported) -> list[File]:
    """Return ``curl.conf``, for ``curl --config``."""
    use = exported.command_line("curl --config curl.conf https://…", **{MODULE_VARIABLE: str(exported.module)})
    options = {
        "engine": "pkcs11",
        "key-type": "ENG",
        "key": exported.key_uri,
        "cert": str(exported.certificate_file),
        "cacert": str(exported.ca_file),
    }
    lines = (f'{name} = "{value.translate(_QUOTED)}"\n' for name, value in options.items())
    about = header(exported, "curl", *exported.notes, "To use it:", use)
    return [File("curl.conf", about + "".join(lines))]
