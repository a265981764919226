"""Every kind of Redis that LiteLLM can be configured with: password, URL, cluster, sentinel, TLS."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import time

import pytest
from litellm import Router
from litellm.caching.redis_cache import RedisCache
from redis import Redis

import fast_router.cluster
from fast_router.errors import ConfigurationError
from fast_router.router import AdvancedRouter
from fast_router.testing.servers import free_port
from tests.cluster.shared import entries, member, outside
from tests.support.waiting import until_sync

pytestmark = [pytest.mark.services, pytest.mark.slow]


def pair_works(make):
    """Two instances attached by `make(router)` see each other."""
    routers = [AdvancedRouter("least_busy", model_list=entries()) for _ in range(2)]
    states = [make(router) for router in routers]
    try:
        assert all(until_sync(lambda s=state: s.connected) for state in states), states[0].status()
        routers[0].acquire("m")
        routers[0].rest("d1", 30.0)
        assert until_sync(lambda: sum(outside(routers[1]).values()) == 1)
        assert until_sync(lambda: not routers[1].deployments["d1"].eligible)
        return states[0]
    finally:
        for state in states:
            state.close()


def from_router(**kwargs):
    plain = Router(model_list=entries(api_key="none"), num_retries=0, **kwargs)
    return lambda router: fast_router.cluster.attach(router, litellm_router=plain, settings={})


def port_of(url):
    return int(url.rsplit(":", 1)[1].split("/")[0])


def test_password(own_redis):
    Redis.from_url(own_redis.url).config_set("requirepass", "hunter2")
    state = pair_works(from_router(redis_host="127.0.0.1", redis_port=port_of(own_redis.url), redis_password="hunter2"))
    assert "hunter2" not in state.target.name


def test_url_with_database_and_namespace(redis_url):
    url = redis_url.rsplit("/", 1)[0] + "/3"
    state = pair_works(from_router(redis_url=url, cache_kwargs={"namespace": "prod"}))
    assert state.exchange.base == "fast_router:{prod}:1"
    assert Redis.from_url(url).exists("prod:deployment:d1:cooldown")
    assert Redis.from_url(url).exists("fast_router:{prod}:1:rests")


@pytest.fixture
def cluster(redis_server, tmp_path):
    """One node that owns every slot."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(
                shutil.which("redis-server"),
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                tmp_path,
            ),
            *("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--logfile", tmp_path / "log"),
        ]
    )
    try:
        client = Redis(port=port)
        assert until_sync(lambda: _answers(client))
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        assert until_sync(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(client):
    try:
        return client.ping()
    except Exception:
        return False


def test_cluster_by_url(cluster):
    url = f"redis+cluster://127.0.0.1:{cluster}"
    pair_works(lambda router: fast_router.cluster.attach(router, url=url, settings={"interop": True}))


def test_cluster_of_the_router(cluster):
    nodes = [{"host": "127.0.0.1", "port": cluster}]
    url = f"redis://127.0.0.1:{cluster}"
    state = pair_works(from_router(redis_url=url, cache_kwargs={"startup_nodes": nodes}))
    assert state.target.cluster
    assert Redis(port=cluster).exists("deployment:d1:cooldown")


async def test_strict_limits_in_a_cluster(cluster):
    url = f"redis+cluster://127.0.0.1:{cluster}"
    model_list = entries(2, max_parallel_requests=1)
    with member(url, limits="strict", admission_timeout=2.0, model_list=model_list) as (one, state):
        leases = [await fast_router.cluster.acquire(one, "m") for _ in range(2)]
        assert {lease.id for lease in leases} == {"d0", "d1"}
        assert state.status()["limits"]["admitted"] == 2


def test_sentinel(own_redis, tmp_path):
    port, master = free_port(), port_of(own_redis.url)
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {master} 1\n")
    process = subprocess.Popen(
        [shutil.which("redis-server"), str(config), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert until_sync(lambda: _answers(Redis(port=port)))
        # As the proxy does with `cache_params`: it makes the cache and hands it to the Router.
        plain = Router(model_list=entries(api_key="none"), num_retries=0)
        plain.update_redis_cache(RedisCache(sentinel_nodes=[("127.0.0.1", port)], service_name="main"))
        state = pair_works(lambda router: fast_router.cluster.attach(router, litellm_router=plain, settings={}))
        assert state.target.name == "1 nodes (main)"
    finally:
        process.kill()
        process.wait()


def test_tls(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    process = subprocess.Popen(
        [
            *(
                shutil.which("redis-server"),
                "--port",
                "0",
                "--tls-port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ),
            *("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no"),
            *("--dir", tmp_path, "--logfile", tmp_path / "log"),
        ]
    )
    try:
        time.sleep(0.2)
        if process.poll() is not None:
            pytest.skip("this redis-server was built without TLS")
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}"
        pair_works(lambda router: fast_router.cluster.attach(router, url=url))
    finally:
        process.kill()
        process.wait()


def test_missing_redis_package_is_one_clear_error(monkeypatch, redis_url):
    real = importlib.import_module

    def without(name, *args):
        if name.startswith("redis"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ConfigurationError, match=r"needs redis, .*\[redis\]"):
        fast_router.cluster.attach(AdvancedRouter("least_busy", model_list=entries()), url=redis_url)
