"""Private redis-server and RabbitMQ for tests: own process, own port, own folder, gone with this process.

Each server is a child of this process (the kernel ends it should we die), listens on loopback on a port from the
OS, keeps everything in one temporary folder, and counts as ready only when the server that answers is proven to
be ours. Nothing of the machine's own servers is touched. Linux only, as the packages are.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from fast_router.errors import FastRouterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Self

__all__ = ["PrivateServer", "RabbitServer", "RedisServer", "ServerMissingError"]

# The kernel sends the parent-death signal when the *thread* that started the child ends, so children are
# started by a thread that lives as long as this process.
_spawner = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="fast_router-servers")

# Run in the child before the server: asking for the parent-death signal in Python code between fork and exec
# would be unsafe in a process with threads. 1 is PR_SET_PDEATHSIG.
_LAUNCH = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class ServerMissingError(FastRouterError):
    """A server program is not installed; the message says how to get it."""


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PrivateServer(ABC):
    """A server process of our own. A context manager; `start` and `stop` may be repeated at the same address.

    Args:
        folder: Where it keeps its files; by default a temporary folder that goes with it.
        start_timeout: Seconds until a start counts as failed.
    """

    kind = ""

    def __init__(self, folder: Path | None = None, *, start_timeout: float = 60.0) -> None:
        self.port = 0
        self._timeout = start_timeout
        self._own_folder = folder is None
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Address for clients."""

    @abstractmethod
    def _choose_ports(self) -> None:
        """Pick fresh ports."""

    @abstractmethod
    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the process."""

    @abstractmethod
    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the server on our port is this very process and ready for clients."""

    @property
    def folder(self) -> Path:
        """Its folder."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"fast-router-{self.kind}-"))
        return self._folder

    @property
    def pid(self) -> int:
        """Process id of the running server.

        Raises:
            FastRouterError: It does not run.
        """
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the process is there (paused counts)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and return when it takes clients. At the same port as last time, if there was one.

        Raises:
            ServerMissingError: The program is not installed.
            FastRouterError: It did not become ready; the message ends with its log.
        """
        if self.running:
            return self
        fixed = bool(self.port)
        tries = 1 if fixed else 3  # between our look at a free port and its bind, somebody else may take it
        for left in reversed(range(tries)):
            if not fixed:
                self._choose_ports()
            try:
                self._start_once()
                return self
            except ServerMissingError:
                raise
            except FastRouterError:
                if not left:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def _start_once(self) -> None:
        process = self._process = self._launch(self.folder)
        deadline = time.monotonic() + self._timeout
        while not self._answers(process):
            if process.poll() is not None:
                why = f"ended with exit code {process.returncode}"
            elif time.monotonic() > deadline:
                why = f"was not ready within {self._timeout:g} s"
            else:
                time.sleep(0.01)
                continue
            self.kill()
            raise FastRouterError(f"the private {self.kind} server {why}; its log ends:\n{self.log_tail()}")

    def stop(self) -> None:
        """End it in an orderly way; its folder stays until `close`."""
        self._signal_and_wait(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._signal_and_wait(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start at the same address."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers, as behind a broken network."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._running().send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze it for the length of the block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def close(self) -> None:
        """Stop it and remove its temporary folder."""
        self.stop()
        if self._own_folder and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def log_tail(self, characters: int = 4000) -> str:
        """Return the end of its log."""
        try:
            return (self.folder / "server.log").read_text(errors="replace")[-characters:]
        except OSError:
            return "(no log)"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise FastRouterError(f"the private {self.kind} server does not run")
        return self._process

    def _signal_and_wait(self, number: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a frozen process takes SIGTERM only once it goes on
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class RedisServer(PrivateServer):
    """A redis-server without persistence.

    Args:
        arguments: Further command line arguments, for example ("--maxmemory", "10mb").
        folder: Where it keeps its files; by default a temporary folder that goes with it.
        start_timeout: Seconds until a start counts as failed.
    """

    kind = "redis"

    def __init__(
        self, arguments: Sequence[str] = (), *, folder: Path | None = None, start_timeout: float = 60.0
    ) -> None:
        super().__init__(folder, start_timeout=start_timeout)
        self._arguments = tuple(arguments)

    @property
    def url(self) -> str:
        """redis://127.0.0.1:port/0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, *words: str) -> bytes:
        """Send one command and return the raw start of the answer (a simple client for probes and cleaning).

        Raises:
            OSError: It could not be reached, or did not answer within 2 seconds.
        """
        request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        return _ask(self.port, request.encode(), timeout=2)

    def _choose_ports(self) -> None:
        self.port = free_port()

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        program = _program("redis-server")
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--daemonize", "no", "--dir", str(folder)]
        quiet = ["--save", "", "--appendonly", "no", "--logfile", str(folder / "server.log")]
        return _spawn([program, *fixed, *quiet, *self._arguments], folder, None)

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        try:
            return b"process_id:%d\r\n" % process.pid in self.command("INFO", "server")
        except OSError:
            return False


class RabbitServer(PrivateServer):
    """A RabbitMQ node with an epmd of its own.

    Messages and queues survive `restart` and `kill` as far as they are durable; they go with `close`.

    Args:
        config: Further lines for rabbitmq.conf.
        folder: Where it keeps its files; by default a temporary folder that goes with it.
        start_timeout: Seconds until a start counts as failed.
    """

    kind = "rabbitmq"

    def __init__(self, config: str = "", *, folder: Path | None = None, start_timeout: float = 90.0) -> None:
        super().__init__(folder, start_timeout=start_timeout)
        self._config = config
        self._epmd: subprocess.Popen[bytes] | None = None
        self._epmd_port = self._distribution_port = 0
        # The node's name is unguessable: a server whose greeting carries it is this one.
        self._name = f"fr{secrets.token_hex(8)}"

    @property
    def url(self) -> str:
        """amqp://guest:guest@127.0.0.1:port//."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node and return what it prints.

        Raises:
            FastRouterError: It failed; the message is its own.
        """
        program = Path(_program("rabbitmq-server")).with_name("rabbitmqctl")
        done = subprocess.run(
            [program, *arguments],
            env=self._environment(self.folder),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise FastRouterError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def close(self) -> None:
        """Stop the node and its epmd, and remove the temporary folder."""
        self.stop()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        super().close()

    def _choose_ports(self) -> None:
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        self.port, self._distribution_port, self._epmd_port = free_port(), free_port(), free_port()

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        program = _program("rabbitmq-server")
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(
            "disk_free_limit.absolute = 50MB\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
            "log.console.level = warning\n" + self._config
        )
        if self._epmd is None or self._epmd.poll() is not None:
            self._epmd = self._start_epmd(folder)
        return _spawn([program], folder, self._environment(folder))

    def _start_epmd(self, folder: Path) -> subprocess.Popen[bytes]:
        # In the foreground and ours: the one that RabbitMQ would start by itself is a daemon that stays behind.
        flags = ["-port", str(self._epmd_port), "-address", "127.0.0.1", "-relaxed_command_check"]
        epmd = _spawn([_program("epmd"), *flags], folder, None)
        deadline = time.monotonic() + 10
        wanted = self._epmd_port.to_bytes(4, "big")  # epmd's answer to a NAMES request begins with its port
        while not _says(self._epmd_port, b"\x00\x01n", lambda answer: answer.startswith(wanted)):
            if epmd.poll() is not None or time.monotonic() > deadline:
                epmd.kill()
                epmd.wait()
                raise FastRouterError(f"epmd did not start on port {self._epmd_port}")
            time.sleep(0.01)
        return epmd

    def _environment(self, folder: Path) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | {
            "HOME": str(folder),  # the Erlang cookie lives here, readable by its owner only
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"{self._name}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_PID_FILE": str(folder / "rabbit.pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # Makes the start script exec the Erlang machine, so that our child is the server, not a shell.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:  # noqa: ARG002 - the name proves it
        # A broker answers the AMQP 0-9-1 header with Connection.Start, whose server properties carry its name.
        name = self._name.encode()
        return _says(self.port, b"AMQP\x00\x00\x09\x01", lambda answer: name in answer)


def _program(name: str) -> str:
    """Return the path of a server program.

    Debian's /usr/sbin/rabbitmq-server changes to the user rabbitmq, who may not enter our folder, and leaves a
    daemon behind; the script it wraps does neither.
    """
    found: str | None
    if name == "rabbitmq-server":
        candidate = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        found = str(candidate) if candidate.exists() else None
    else:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin")
    if found is None:
        raise ServerMissingError(f"{name} is not installed; run scripts/install_servers.sh (Debian or Ubuntu, root)")
    return found


def _spawn(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    full = [sys.executable, "-S", "-E", "-c", _LAUNCH, str(os.getpid()), *command]

    def start() -> subprocess.Popen[bytes]:
        with (folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                full, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    return _spawner.submit(start).result()


def _ask(port: int, request: bytes, timeout: float) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout) as line:
        line.sendall(request)
        answer = b""
        # Whatever comes in the first pieces is enough for every question asked here.
        while len(answer) < 512:
            line.settimeout(timeout if not answer else 0.05)
            try:
                piece = line.recv(65_536)
            except TimeoutError:
                if not answer:
                    raise
                break
            if not piece:
                break
            answer += piece
        return answer


def _says(port: int, request: bytes, condition: Callable[[bytes], bool]) -> bool:
    try:
        return condition(_ask(port, request, timeout=2))
    except OSError:
        return False
