"""A stand-in for `vllm serve`: the same command line, key, listing and calls, and faults on demand.

`FAKE_VLLM` holds JSON: `delay` (seconds until it listens), `fail` (text it prints before it exits
with 1), `die_after` (calls until it kills itself), `stubborn` (it ignores SIGTERM), `record` (a
file that receives its pid, arguments, environment and bodies, one JSON line each), and `context`.
Like vLLM it has a worker process of its own, which does not end with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = json.loads(os.environ.get("FAKE_VLLM", "{}"))
SEEN = ("VLLM_API_KEY", "OPENAI_API_KEY", "KDHARNESS_JUDGE_API_KEY", "CUDA_VISIBLE_DEVICES")


def record(**values: Any) -> None:
    """Append a line to the record."""
    if "record" in FAULTS:
        with Path(FAULTS["record"]).open("a") as stream:
            stream.write(json.dumps(values) + "\n")


def option(name: str) -> str:
    """Return the value of a command line option."""
    return sys.argv[sys.argv.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    """The two paths that are asked."""

    protocol_version = "HTTP/1.1"
    calls = 0

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}":
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def do_GET(self) -> None:
        if self.allowed():
            model = {"id": option("--served-model-name")}
            model["max_model_len"] = FAULTS.get("context", 4096)
            self.answer(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        Handler.calls += 1
        record(body=body)
        if Handler.calls > FAULTS.get("die_after", 1 << 30):
            print("CUDA error: an illegal memory access was encountered", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": "Fine. Rating: [[7]]"},
            "finish_reason": "stop",
        }
        if body.get("logprobs"):
            top = [{"token": t, "logprob": v} for t, v in (("m", -0.2), ("M", -1.8))]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        self.answer(200, {"object": "chat.completion", "choices": [choice], "usage": usage})


def main() -> None:
    if FAULTS.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    environment = {name: os.environ.get(name) for name in SEEN}
    record(pid=os.getpid(), worker=worker.pid, arguments=sys.argv[1:], environment=environment)
    print(f"loading {sys.argv[2]}", flush=True)
    if "fail" in FAULTS:
        print(FAULTS["fail"], flush=True)
        sys.exit(1)
    time.sleep(FAULTS.get("delay", 0))
    port = int(option("--port"))
    try:
        server = ThreadingHTTPServer((option("--host"), port), Handler)
    except OSError as error:
        print(error, flush=True)
        sys.exit(1)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
