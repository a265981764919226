"""Deployments are named as people know them, and nothing of an address that could be secret is."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine import Deployment
from fast_router.naming import name_of, names_of, served_by, server_of, short_id, short_ids


@pytest.mark.parametrize(
    ("entry", "server"),
    [
        ({"litellm_params": {"model": "openai/x", "api_base": "http://10.0.0.3:8000/v1"}}, "10.0.0.3:8000"),
        ({"litellm_params": {"model": "openai/x", "base_url": "https://gpu7.example.org/v1"}}, "gpu7.example.org"),
        ({"litellm_params": {"api_base": "https://user:sk-secret@h:1/sk-secret?api-key=sk-secret#sk-secret"}}, "h:1"),
        ({"litellm_params": {"api_base": "http://[::1]:8000"}}, "[::1]:8000"),
        ({"litellm_params": {"model": "azure/gpt-4", "api_base": "os.environ/AZURE"}}, "azure"),
        ({"litellm_params": {"model": "bedrock/anthropic.claude"}}, "bedrock"),
        ({"litellm_params": {"model": "gpt-4", "custom_llm_provider": "openai"}}, "openai"),
        ({"litellm_params": {"model": "gpt-4"}}, "–"),
        ({"endpoint": "gpu8:9000/v1"}, "gpu8:9000"),
        ({"endpoint": "not an address at all"}, "–"),
        ({"litellm_params": {"api_base": "http://[broken"}}, "–"),
        ({"litellm_params": {"api_base": 7}}, "–"),
        ({"litellm_params": None}, "–"),
        ({}, "–"),
    ],
)
def test_a_server_is_host_and_port_or_the_provider_and_nothing_else(entry, server):
    assert server_of(entry) == server
    assert "sk-secret" not in server_of(entry)


HEX = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)


@given(st.sets(HEX | st.text(alphabet=string.ascii_lowercase, min_size=1, max_size=70), min_size=1, max_size=20))
def test_a_short_id_is_a_beginning_that_no_other_id_has(ids):
    short = short_ids(ids)
    assert set(short) == ids
    for id_, beginning in short.items():
        assert beginning == short_id(id_, ids)
        assert id_.startswith(beginning)
        if beginning != id_:
            assert [other for other in ids if other.startswith(beginning)] == [id_]


def test_ids_that_people_chose_stay_whole_and_close_ones_are_told_apart():
    assert short_id("azure-sweden-central-production-1", []) == "azure-sweden-central-production-1"
    one, other = "a" * 40 + "b" * 24, "a" * 40 + "c" * 24
    assert short_ids([one, other]) == {one: "a" * 40 + "b", other: "a" * 40 + "c"}


def test_a_name_reads_as_a_sentence_says_it():
    entry = {"litellm_params": {"api_base": "http://10.0.0.3:8000"}}
    members = [Deployment("3fa2c81b" + "0" * 56, "gpt-4", entry), Deployment("d1", "gpt-4", {})]
    assert str(name_of(members[0])) == "gpt-4 on 10.0.0.3:8000 (id 3fa2c81b)"
    assert {id_: name.id for id_, name in names_of(members).items()} == {members[0].id: "3fa2c81b", "d1": "d1"}


def test_those_who_serve_are_named_and_counted():
    members = [Deployment(f"d{i}", "m", {"endpoint": f"gpu{i % 5}:1"}) for i in range(10)]
    assert served_by(members) == "gpu0:1, gpu1:1, gpu2:1 and 2 more"
    assert served_by(members[:2]) == "gpu0:1, gpu1:1"
    assert served_by([]) == "nothing"
