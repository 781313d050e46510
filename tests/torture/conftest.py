"""Daemons for the campaigns: those of the system tests."""

from tests.system.conftest import daemon, make_daemon  # noqa: F401 - fixtures
