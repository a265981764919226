"""Upstreams and Routers of the attacks."""

from __future__ import annotations

import logging

import pytest

from tests.attack.doors import RouterDoor
from tests.attack.upstreams import OWN, fleet


@pytest.fixture(scope="module")
def upstreams():
    with fleet() as made:
        yield made


@pytest.fixture
def quiet():
    """No log lines: LiteLLM and we have much to say about requests like these."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def door_to(upstreams, quiet):
    """A door to a Router made of these deployments."""
    made = []

    def door(model_list, **options):
        made.append(RouterDoor(model_list, **options))
        made[-1].own_endpoint = upstreams[OWN].api_base
        return made[-1]

    yield door
    for each in made:
        each.close()
