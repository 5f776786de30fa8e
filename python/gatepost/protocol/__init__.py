"""Protocol machines without I/O: octets in, events out. No asyncio, no clock; driven by server/."""
