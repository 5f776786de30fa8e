"""MIME as every reader may see it: `parse` a message, look at its parts, defects and readings (docs/mime.md).

Called by `gatepost mime` and by whoever scans mail; a thin, typed face over the native index. Nothing here fails on content; what is wrong
with a message is a defect. `parse` is quick (microseconds for a letter); for messages that may be big call `parse_in_thread`.
"""

from gatepost.mime.message import Attachment, Defect, Field, Leaf, Message, Name, Part, Reading, Shown, decode, parse, parse_in_thread

__all__ = [
    "Attachment",
    "Defect",
    "Field",
    "Leaf",
    "Message",
    "Name",
    "Part",
    "Reading",
    "Shown",
    "decode",
    "parse",
    "parse_in_thread",
]
