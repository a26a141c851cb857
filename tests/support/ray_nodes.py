"""Two Ray nodes on one machine, each in a network namespace of its own, so that one can be lost as a machine is."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

NAMES = ("chatbench0", "chatbench1")
ADDRESSES = ("10.231.77.1", "10.231.77.2")


def why_not() -> str:
    """Why nodes cannot be started here, "" where they can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'chatbench[ray]'"
    if os.geteuid() or not shutil.which("ip"):
        return "network namespaces need root, and ip (iproute2)"
    made = subprocess.run(["ip", "netns", "add", NAMES[0]], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", NAMES[0]], capture_output=True, check=False)
    return "" if made.returncode == 0 else f"no network namespaces: {made.stderr.strip()}"


def inside(node: int, *words: str) -> list[str]:
    """A Python command in the namespace of a node."""
    return ["ip", "netns", "exec", NAMES[node], sys.executable, *words]


def kill_node(node: int) -> None:
    """SIGKILL for every process of a node at once."""
    listed = subprocess.run(["ip", "netns", "pids", NAMES[node]], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


@contextmanager
def ray_nodes(
    gpus: tuple[int, int], hidden: Path | None = None, cpus: tuple[int, int] = (1, 1)
) -> Iterator[Mapping[str, str]]:
    """A cluster with so many logical CPUs and GPUs on each node; gives the environment of its drivers.

    For the second node a `hidden` folder is empty, and its own.
    """
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    links = [["link", "add", "veth-cb0", "netns", NAMES[0], "type", "veth", "peer", "veth-cb1", "netns", NAMES[1]]]
    for node in (0, 1):
        links.insert(0, ["netns", "add", NAMES[node]])
        links.append(["-n", NAMES[node], "addr", "add", f"{ADDRESSES[node]}/24", "dev", f"veth-cb{node}"])
        links += [["-n", NAMES[node], "link", "set", device, "up"] for device in (f"veth-cb{node}", "lo")]
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="cb", dir="/tmp", ignore_cleanup_errors=True))
        for node in (0, 1):
            stack.callback(subprocess.run, ["ip", "netns", "delete", NAMES[node]], check=False)
            stack.callback(kill_node, node)
        for link in links:
            subprocess.run(["ip", *link], check=True)
        for node in (0, 1):
            start = ["-m", "ray.scripts.scripts", "start", f"--node-ip-address={ADDRESSES[node]}"]
            start += [f"--num-cpus={cpus[node]}", f"--num-gpus={gpus[node]}", "--disable-usage-stats"]
            start += [f"--address={ADDRESSES[0]}:6379"] if node else ["--head", "--port=6379", f"--temp-dir={folder}"]
            start += [] if node else ["--include-dashboard=false"]
            with (Path(folder) / f"node{node}").open("wb") as log:
                command = inside(node, *start)
                if node and hidden:
                    mount = f'mount -t tmpfs none "{hidden}" && cd / && exec "$@"'
                    command = [*command[:4], "unshare", "-m", "sh", "-c", mount, "sh", *command[4:]]
                code = subprocess.run(command, env=environment, check=False, stdout=log, stderr=log).returncode
            assert not code, (Path(folder) / f"node{node}").read_text(encoding="utf-8", errors="replace")[-4000:]
        yield environment
