"""Which function carries out which command. ALLOWED (protocol/imap/commands.py) says when; together they are the session."""

from collections.abc import Awaitable, Callable
from typing import Any

from gatepost.server.imap import auth, folders, messages, selected

Handler = Callable[[Any, Any], Awaitable[str | None]]
"""(session, command) -> text of the tagged OK, or None. `Any` because each takes its own command type."""

HANDLERS: dict[str, Handler] = {
    "CAPABILITY": auth.capability,
    "NOOP": auth.noop,
    "LOGOUT": auth.logout,
    "ID": auth.identify,
    "STARTTLS": auth.starttls,
    "AUTHENTICATE": auth.authenticate,
    "LOGIN": auth.login,
    "ENABLE": auth.enable,
    "CREATE": folders.create,
    "DELETE": folders.delete,
    "RENAME": folders.rename,
    "SUBSCRIBE": folders.subscribe,
    "UNSUBSCRIBE": folders.subscribe,
    "LIST": folders.list_folders,
    "LSUB": folders.list_folders,
    "NAMESPACE": folders.namespace,
    "STATUS": folders.status,
    "SELECT": selected.select,
    "EXAMINE": selected.select,
    "IDLE": selected.idle,
    "CHECK": selected.check,
    "CLOSE": selected.close,
    "UNSELECT": selected.unselect,
    "EXPUNGE": selected.expunge,
    "UID EXPUNGE": selected.uid_expunge,
    "SEARCH": messages.search,
    "UID SEARCH": messages.search,
    "FETCH": messages.fetch,
    "UID FETCH": messages.fetch,
    "STORE": messages.store,
    "UID STORE": messages.store,
    "COPY": messages.copy,
    "UID COPY": messages.copy,
    "MOVE": messages.move,
    "UID MOVE": messages.move,
}
