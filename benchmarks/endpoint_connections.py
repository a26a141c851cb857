r"""Requests per second and the client's processor time: a connection for each request, as chatbench asks, or kept ones.

A server in a process of its own answers at once, over HTTP and over TLS (with a certificate made for the run, by
`openssl`). A kept connection saves a handshake, but what a server sends beyond one reply is then taken for the next.

    python benchmarks/endpoint_connections.py
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
from benchmarks.simulation_endpoint import serving

from chatbench.core.records import Message
from chatbench.endpoints.address import read_address
from chatbench.endpoints.client import EndpointClient
from chatbench.protocol.dialogue import Reply

CHAT = (Message("system", "S"), Message("user", "hi " * 200))


async def ask(url: str, requests: int, concurrency: int, *, kept: bool) -> None:
    """Sends so many requests, so many under way at once."""
    client = EndpointClient(read_address(f"m@{url}"), "chat", temperature=1, max_tokens=100, timeout_seconds=60)
    if kept:
        client._client = httpx.AsyncClient(
            headers={"accept-encoding": "identity"}, limits=httpx.Limits(max_keepalive_connections=concurrency)
        )
    places = asyncio.Semaphore(concurrency)

    async def one(seed: int) -> None:
        async with places:
            assert isinstance(await client.complete(CHAT, seed, may_be_empty=False), Reply)

    await asyncio.gather(*map(one, range(requests)))
    await client.close()


def compare(name: str, url: str, requests: int, rounds: int) -> None:
    """Prints a line for each way and concurrency: medians over the rounds, which alternate."""
    for concurrency in (1, 32):
        rates: dict[bool, list[float]] = {True: [], False: []}
        worked: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for kept in rates:
                began, before = time.perf_counter(), time.process_time()
                asyncio.run(ask(url, requests, concurrency, kept=kept))
                rates[kept].append(requests / (time.perf_counter() - began))
                worked[kept].append(1000 * (time.process_time() - before) / requests)
        for kept in rates:
            rate, each = statistics.median(rates[kept]), statistics.median(worked[kept])
            way = "kept connections" if kept else "one connection each"
            print(
                f"{name}, {concurrency:2} at once, {way:19}: {rate:6.0f} requests/s, {each:5.2f} ms of processor each",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    with serving() as plain:
        compare("HTTP", plain, options.requests, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        certificate = Path(folder) / "both.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(certificate), "-out", str(Path(folder) / "cert")],
            check=True, capture_output=True,
        )  # fmt: skip
        certificate.write_bytes(certificate.read_bytes() + (Path(folder) / "cert").read_bytes())
        os.environ["SSL_CERT_FILE"] = str(Path(folder) / "cert")
        with serving("--certificate", str(certificate)) as secured:
            compare("TLS", secured, options.requests, options.rounds)
