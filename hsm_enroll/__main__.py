"""``python -m hsm_enroll``: the command, for where its script is not on PATH."""

from hsm_enroll.cli import main

if __name__ == "__main__":
    main()
