"""Settings: one TOML file, parsed once into frozen values."""

from varmenne.settings.kinds import SecretSource
from varmenne.settings.loading import CONFIG_NAME, find_config, load_settings, parse_settings, why_wrong
from varmenne.settings.tables import (
    CustomerSettings,
    JournalSettings,
    ServiceSettings,
    Settings,
    TokenSettings,
    TrustSettings,
)
from varmenne.settings.unattended import AgentSettings, HookSettings, MetricsSettings, RenewalSettings
from varmenne.settings.vault import LoginSettings, VaultSettings

__all__ = [
    "CONFIG_NAME",
    "AgentSettings",
    "CustomerSettings",
    "HookSettings",
    "JournalSettings",
    "LoginSettings",
    "MetricsSettings",
    "RenewalSettings",
    "SecretSource",
    "ServiceSettings",
    "Settings",
    "TokenSettings",
    "TrustSettings",
    "VaultSettings",
    "find_config",
    "load_settings",
    "parse_settings",
    "why_wrong",
]
