"""How `tracelift serve --rm` does under load: many requests at a time on the shipped reward model of the dial world.

    python benchmarks/serve_load.py                      # 200 concurrent requests of 4 items, five times over
    python benchmarks/serve_load.py --requests=50 --items=16 --json

Starts a server as a process of its own, and clients in this one. Every client sends its next request when it has its
answer, so `--requests` are under way all the time. Each answer is checked: its status, and that equal items got equal
scores. Latency is what a client sees, connection included.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from tracelift_jax.groups.source import DialGroups
from tracelift_jax.tasks.dial import DialTask

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "experiments" / "dial" / "score.gin"


def dial_items(count: int) -> list[dict[str, str]]:
    """True and flawed traces of the dial world."""
    groups = DialGroups(DialTask()).groups("test")
    items = []
    for group in groups:
        for trace in (*group.positives, *group.negatives):
            items.append({"problem": group.problem, "reasoning": trace.reasoning})
            if len(items) == count:
                return items
    raise ValueError(f"the dial world's test split has fewer than {count} traces")


async def load(address: str, requests: int, items: int, rounds: int) -> dict[str, float]:
    """Sends the requests and times them.

    Args:
        requests: clients. items: of each request. rounds: requests of each client.

    Returns:
        Throughput in items and requests a second, and the latency's percentiles in milliseconds.
    """
    offered = dial_items(4 * items)
    parts = [offered[items * n : items * (n + 1)] for n in range(4)]
    scores: dict[int, list[float]] = {}
    seconds: list[float] = []

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        for turn in range(rounds):
            part = (number + turn) % 4
            began = time.perf_counter()
            async with session.post(address, json={"items": parts[part]}) as response:
                answer = await response.json()
                if response.status != 200:
                    raise RuntimeError(f"answered {response.status}: {answer}")
            seconds.append(time.perf_counter() - began)
            if not np.allclose(answer["scores"], scores.setdefault(part, answer["scores"]), atol=1e-4):
                raise RuntimeError(f"{answer['scores']} for what had {scores[part]}")

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session, number) for number in range(requests)))
        took = time.perf_counter() - began
    p50, p90, p99 = map(float, np.percentile(seconds, [50, 90, 99]))
    return {
        "requests": len(seconds),
        "seconds": took,
        "requests_per_second": len(seconds) / took,
        "items_per_second": items * len(seconds) / took,
        "p50_ms": 1000 * p50,
        "p90_ms": 1000 * p90,
        "p99_ms": 1000 * p99,
        "max_ms": 1000 * max(seconds),
    }


def run(requests: int, items: int, rounds: int, flags: list[str] | None = None) -> dict[str, Any]:
    """Starts a server, loads it and stops it; `flags` go to `tracelift serve`."""
    serve = [sys.executable, "-m", "tracelift_jax", "serve", "--rm", f"--gin_file={SHIPPED}", "--port=0"]
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": python_path}
    with subprocess.Popen([*serve, *(flags or [])], stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            said = iter(server.stdout or [])
            address = next((line.split()[1] for line in said if line.startswith("serving ")), None)
            if address is None:
                raise RuntimeError("the server did not start")
            found = asyncio.run(load(address, requests, items, rounds))
        finally:
            server.terminate()
            left = server.wait()
    if left:
        raise RuntimeError(f"the server left with {left}")
    return found


def main() -> None:
    """Prints throughput and latency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="requests under way at a time")
    parser.add_argument("--items", type=int, default=4, help="items in a request")
    parser.add_argument("--rounds", type=int, default=5, help="requests of each client, one after the other")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    found = run(args.requests, args.items, args.rounds)
    if args.json:
        print(json.dumps(found))
        return
    print(f"{args.requests} requests of {args.items} items at a time, {found['requests']} in all, no error")
    print(f"throughput  {found['items_per_second']:.0f} items/s, {found['requests_per_second']:.0f} requests/s")
    shown = " · ".join(f"{name} {found[f'{name}_ms']:.0f} ms" for name in ("p50", "p90", "p99", "max"))
    print(f"latency     {shown}")


if __name__ == "__main__":
    main()
