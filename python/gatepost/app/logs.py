"""Structured logs on standard error: JSON lines, or text for a terminal. Called once by each process."""

import logging
import sys
from typing import Any

import structlog

from gatepost.config import Settings


def configure(settings: Settings, process: str) -> None:
    """Route structlog and the standard library's loggers to standard error. `process` names supervisor or worker."""
    level = logging.getLevelNamesMapping()[settings.log.level.upper()]
    console = settings.log.format == "console" or (settings.log.format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(
        stream=sys.stderr, level=max(level, logging.WARNING), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
