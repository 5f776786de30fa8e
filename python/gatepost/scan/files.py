"""A policy from a TOML file. Called by `gatepost scan`. Fails by PolicyError, which names file and key."""

import tomllib
from pathlib import Path

from pydantic import ValidationError

from gatepost.scan.policy import Policy


class PolicyError(Exception):
    """The file cannot be read, is not TOML, or has a faulty rule."""


def load_policy(path: Path) -> Policy:
    """Read `[[rules]]` tables."""
    try:
        return Policy.model_validate(tomllib.loads(path.read_text("utf-8")))
    except ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise PolicyError(f"{path}: {key}: {first['msg']}") from fault
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise PolicyError(f"{path}: {fault}") from fault
