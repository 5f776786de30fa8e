"""Typed settings, validated once, every error named by its key. `load_settings` makes a `Settings`; every layer above reads it."""

from gatepost.config.endpoint import Endpoint, parse_endpoint
from gatepost.config.load import SettingsError, load_settings, setting_names
from gatepost.config.settings import Settings

__all__ = ["Endpoint", "Settings", "SettingsError", "load_settings", "parse_endpoint", "setting_names"]
