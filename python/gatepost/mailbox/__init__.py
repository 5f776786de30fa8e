"""Mail stores for asyncio: volumes by name, each an `AsyncStore` over the native store. Used by server/, delivery/ and control/."""

from gatepost.mailbox.store import AsyncStore, Delivery, FolderInfo, MessageInfo, SpoolHandle
from gatepost.mailbox.volumes import MailboxPlace, VolumePlace, Volumes

__all__ = ["AsyncStore", "Delivery", "FolderInfo", "MailboxPlace", "MessageInfo", "SpoolHandle", "VolumePlace", "Volumes"]
