"""Text that others wrote, made safe to show."""

from __future__ import annotations


def escaped(text: str, *, kept: str = "") -> str:
    r"""Return text with everything escaped, such as ``\x1b``, that could steer a terminal or be mistaken.

    That is what ``str.isprintable`` says no to: controls, formats such as those that reverse the direction, line ends,
    blanks other than the space, half characters, and what Unicode does not define.

    Args:
        text: of any origin.
        kept: characters that stay as they are, such as the line ends of a layout.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in kept
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
