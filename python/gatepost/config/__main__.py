"""`python -m gatepost.config` prints docs/configuration.md, made from the Settings model; a test holds the file to it."""

from gatepost.config.reference import reference

if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 -- printing is what it is for
