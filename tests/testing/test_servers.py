"""The private servers: really ours, alone on their port, breakable, and gone with the process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import kombu
import pytest
import redis

from fast_router.errors import FastRouterError
from fast_router.testing.servers import RabbitServer, RedisServer

pytestmark = pytest.mark.services


def gone(pid: int, timeout: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        time.sleep(0.01)
    return False


def test_redis_starts_restarts_and_leaves_nothing(own_redis):
    port, first = own_redis.port, own_redis.pid
    assert own_redis.command("SET", "a", "1") == b"+OK\r\n"
    own_redis.kill()
    assert not own_redis.running
    with pytest.raises(ConnectionRefusedError):
        own_redis.command("PING")
    own_redis.start()
    assert own_redis.port == port
    assert own_redis.pid != first
    assert own_redis.command("PING") == b"+PONG\r\n"
    folder, pid = own_redis.folder, own_redis.pid
    own_redis.close()
    assert gone(pid)
    assert not folder.exists()


def test_a_paused_redis_holds_connections_and_answers_later(own_redis):
    with socket.create_connection(("127.0.0.1", own_redis.port)) as line:
        with own_redis.paused():
            line.sendall(b"PING\r\n")
            line.settimeout(0.1)
            with pytest.raises(TimeoutError):
                line.recv(16)
        line.settimeout(20)
        assert line.recv(16) == b"+PONG\r\n"


def test_a_paused_redis_can_still_be_stopped(own_redis):
    pid = own_redis.pid
    own_redis.pause()
    own_redis.stop()
    assert gone(pid)


def test_somebody_elses_redis_on_the_port_is_not_taken_for_ours(own_redis):
    intruder = RedisServer(start_timeout=20)
    intruder.port = own_redis.port
    try:
        with pytest.raises(FastRouterError, match="ended with exit code"):
            intruder.start()
    finally:
        intruder.close()
    assert own_redis.command("PING") == b"+PONG\r\n"


def test_a_bad_argument_shows_the_servers_own_words():
    server = RedisServer(["--no-such-thing", "1"])
    try:
        with pytest.raises(FastRouterError, match="no-such-thing"):
            server.start()
    finally:
        server.close()


def test_the_server_ends_when_its_process_is_killed(own_redis):
    # own_redis only proves that the program is installed; the one under test belongs to a child of ours.
    program = (
        "import sys\n"
        "from fast_router.testing.servers import RedisServer\n"
        "server = RedisServer().start()\n"
        "print(server.pid, server.folder, flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        pid, folder = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert gone(int(pid))
        subprocess.run(["rm", "-rf", folder], check=True)
    finally:
        child.kill()
        child.communicate()


def test_the_shared_redis_is_empty_for_each_test(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0 or os.environ.get("FAST_ROUTER_TEST_REDIS_URL")
        client.set("left", "behind")


def test_the_shared_redis_is_still_empty_for_the_next(redis_url):
    test_the_shared_redis_is_empty_for_each_test(redis_url)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_rabbit_keeps_durable_messages_through_a_kill(own_rabbit):
    def connection():
        # confirmed: a message that the broker has not acknowledged may die with it
        options = {"confirm_publish": True}
        return kombu.Connection(own_rabbit.url, connect_timeout=10, transport_options=options)

    queue = "kept"
    with connection() as line, line.SimpleQueue(queue) as box:
        box.put({"n": 1})
    port, first = own_rabbit.port, own_rabbit.pid
    own_rabbit.kill()
    with pytest.raises(kombu.exceptions.OperationalError, match="refused"), connection() as line:
        line.ensure_connection(max_retries=1, interval_start=0)
    own_rabbit.start()
    assert own_rabbit.port == port
    assert own_rabbit.pid != first
    with connection() as line, line.SimpleQueue(queue) as box:
        message = box.get(timeout=20)
        assert message.payload == {"n": 1}
        message.ack()
    assert queue in own_rabbit.ctl("-q", "list_queues", "name")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_nodes_live_side_by_side(own_rabbit):
    with RabbitServer() as second:
        assert second.port != own_rabbit.port
        assert second.pid != own_rabbit.pid
        pid = second.pid
    assert gone(pid)
    assert own_rabbit.running
