"""The plugin as these tests want it: switched on, and as it was when a test has ended."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import fast_router
from fast_router import settings
from tests.support.plugin import discard


@dataclass
class Plugin:
    """What a test says of the plugin.

    Attributes:
        errors: Errors of ours that it brings about on purpose.
    """

    errors: int = 0


@pytest.fixture
def plugin():
    """The plugin on; afterwards no Router and no setting is left, and nothing went wrong in it."""
    assert fast_router.enable()
    before = fast_router.status()["errors"]["count"]
    meant = Plugin()
    yield meant
    discard()
    settings.reset()
    fast_router.enable()
    assert fast_router.status()["errors"]["count"] == before + meant.errors, fast_router.status()["errors"]
