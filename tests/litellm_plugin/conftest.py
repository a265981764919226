"""The plugin as these tests want it: switched on, and as it was when a test has ended."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import fast_router
from fast_router import settings
from fast_router.testing import Fleet
from tests.support.plugin import calm, discard


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


@pytest.fixture(scope="module")
def fleet():
    """Three servers for all tests of a file; a file that wants others has a fixture of its own by this name."""
    with Fleet(3) as running:
        yield running


@pytest.fixture
def servers(fleet):
    """The servers of the file's fleet, without orders or memories."""
    return calm(fleet.values())
