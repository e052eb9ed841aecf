"""An executor of your own behind HTTP: any server that speaks OpenAI's wire format. This one is a few lines of Python.

    python examples/own_executor.py --run_dir=runs/own_executor [--gin.STEPS=20]

A few minutes on 2 CPU cores. This executor follows reasoning nine times of ten and guesses else, so that accuracy stays
below 0.92 however good the reasoning; `reward/faithful` in metrics.jsonl says how much of it is true.

With a server that runs already, no script is needed:

    vllm serve Qwen/Qwen2.5-7B-Instruct --port 8000                                          # one GPU of 24 GB
    tracelift train --gin_file=experiments/dial/tracelift.gin --gin_file=experiments/executors/server.gin \
      --gin.URL=http://localhost:8000/v1 --gin.EXECUTOR=Qwen/Qwen2.5-7B-Instruct --run_dir=runs/served
"""

import json
import random
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tracelift_jax.cli import main


def answer(prompt: str, dice: random.Random) -> str:
    """Nine times of ten the number at the end of the reasoning; else, and without reasoning, it guesses."""
    reasoning = re.search(r"<reasoning>(.*?)</reasoning>", prompt, re.DOTALL)
    numbers = re.findall(r"\d+", reasoning[1]) if reasoning else []
    return f" {numbers[-1] if numbers and dice.random() < 0.9 else dice.randrange(10)}"


class Executor(BaseHTTPRequestHandler):
    """`POST /v1/completions`: `n` answers to a prompt, 1 if it does not say, drawn by its `seed`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answers one request."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        dice = random.Random(f"{asked['seed']} {asked['prompt']}")
        choices = [{"index": i, "text": answer(asked["prompt"], dice)} for i in range(asked.get("n", 1))]
        told = json.dumps({"choices": choices}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of the thousands of requests."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Executor) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        files = ["experiments/dial/tracelift.gin", "experiments/executors/server.gin"]
        there = [f"--gin.URL=http://127.0.0.1:{server.server_port}/v1", "--gin.EXECUTOR=follower"]
        main(["train", *(f"--gin_file={file}" for file in files), *there, *sys.argv[1:]])
