"""What can go wrong in the directory, split by what the caller must do. control/ maps each to a gRPC status, cli/ to an exit code."""


class DirectoryError(Exception):
    """Base. On its own: the directory cannot be used (file, schema, disk); the text says what and where."""


class NotFound(DirectoryError):
    """No such domain, handler, user, volume, token or secret."""


class AlreadyExists(DirectoryError):
    """Something of that name exists."""


class EtagMismatch(DirectoryError):
    """The stored thing changed since the caller read it. `current` is its etag now."""

    def __init__(self, text: str, current: str) -> None:
        super().__init__(text)
        self.current = current


class InvalidValue(DirectoryError):
    """A value that cannot be stored: `field` names it ('host', 'handlers[2].targets'), `problem` says why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ConflictInUse(DirectoryError):
    """Something else needs it: a domain with users, a user that a handler delivers to."""


class SchemaTooNew(DirectoryError):
    """The file was written by a newer Gatepost."""
