# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes a real server under load; every expression of every dashboard must then have data.

usage: dashboards_test.py ROOT FARSPAN_SERVER FARSPAN

The server runs the hash model; the load is every policy of this build through the `farspan` command. Prometheus gets the
shipped configuration with the target and the scrape interval changed. Exit status 77 is a skip.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

EXIT_SKIPPED = 77
DEADLINE_SECONDS = 50.0
POLL_SECONDS = 0.1

MODEL = "hash:step_us=2000"
MODEL_NAME = "load"
SEATS = 16
# The most that one request may need, so that the seats together need far more and preempt one another.
KV_CACHE_BYTES = 524288
DATA_SOURCE = "${DS_PROMETHEUS}"
# What Grafana would put in for its variables.
VARIABLES = {
    "$__rate_interval": "1m",
    "$model_name": MODEL_NAME,
    "$attention_policy": ".*",
    "$context_band": "le4k",
}

# Policies that need an option to be set.
OPTIONS = {"quest": "quest { budget_tokens: 256 }"}
# Panels that may show nothing but zeros: the hash model calls no attention kernel.
MAY_BE_ZERO = {"Time in attention"}

Json = dict[str, Any]
T = TypeVar("T")


class Failure(Exception):
    """What the test found wrong, in one sentence."""


@dataclass(frozen=True)
class Expression:
    """A query of a dashboard and where it stands."""

    dashboard: str
    panel: str
    text: str

    def filled(self) -> str:
        """With Grafana's variables replaced."""
        text = self.text
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        if "$" in text:
            raise Failure(f"{self.dashboard}: {self.panel}: unknown variable in {self.text}")
        return text

    def is_answered_by(self, values: list[float], num_policies: int) -> bool:
        """Whether the values are data: one for each policy where it has one for each, and not all zero."""
        enough = num_policies if re.search(r"\bby \([^)]*attention_policy", self.text) else 1
        return len(values) >= enough and (self.panel in MAY_BE_ZERO or max(values) > 0)


class Process:
    """A program that runs until the test ends; its output goes to a file."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._name = Path(command[0]).name
        self._log = log
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def until(self, what: str, deadline: float, attempt: Callable[[], T | None]) -> T:
        """The first answer of `attempt` that is not None; fails when the process ends or at the deadline."""
        while True:
            answer = attempt()
            if answer is not None:
                return answer
            try:
                self._process.wait(timeout=POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
            raise Failure(f"{what}: not in time, or {self._name} has ended; it said:\n{self.output()[-2000:]}")

    def output(self) -> str:
        """All it has written."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def logged(self, pattern: str) -> re.Match[str] | None:
        """Where its output matches, if it does by now."""
        return re.search(pattern, self.output())


class Prometheus:
    """The HTTP API of a Prometheus server."""

    def __init__(self, port: str) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 (JSON)
        """The `data` of an answer."""
        url = f"{self._base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=5) as reply:
            return json.load(reply)["data"]

    def is_ready(self) -> bool:
        """Whether it answers queries yet; it listens before it has opened its storage."""
        try:
            with urllib.request.urlopen(f"{self._base}/-/ready", timeout=5):
                return True
        except urllib.error.HTTPError:
            return False

    def finite(self, expression: str) -> list[float]:
        """The finite values of an instant query."""
        try:
            result = self.get("query", query=expression)["result"]
        except urllib.error.HTTPError as error:
            raise Failure(f"{expression}: {error.read().decode()}") from error
        values = [float(sample["value"][1]) for sample in result]
        return [value for value in values if math.isfinite(value)]

    def label_values(self, query: str) -> list[str]:
        """What Grafana's `label_values(selector, label)` lists."""
        match = re.fullmatch(r"label_values\((.*), *(\w+)\)", query)
        if match is None:
            raise Failure(f"not a label_values query: {query}")
        return list(self.get(f"label/{match[2]}/values", **{"match[]": match[1]}))


def dashboards(root: Path) -> Iterator[tuple[str, Json]]:
    """Every shipped dashboard by name."""
    paths = sorted((root / "deploy/grafana/dashboards").glob("*.json"))
    if not paths:
        raise Failure("no dashboard is shipped")
    for path in paths:
        yield path.name, json.loads(path.read_text(encoding="utf-8"))


def panels(dashboard: Json) -> Iterator[Json]:
    """All panels, those inside collapsed rows included."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions(name: str, dashboard: Json) -> Iterator[Expression]:
    """Every query of a dashboard's panels."""
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield Expression(name, panel["title"], target["expr"])


def check_form(name: str, dashboard: Json) -> None:
    """What makes a dashboard work where it is provisioned: fixed uid, own data source, panels that do not overlap."""
    if not dashboard.get("uid") or "id" in dashboard:
        raise Failure(f"{name}: a provisioned dashboard has a uid and no id")
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    if variables != ["DS_PROMETHEUS", "model_name", "attention_policy", "context_band"]:
        raise Failure(f"{name}: unexpected variables {variables}")
    ids: set[int] = set()
    cells: set[tuple[int, int]] = set()
    for panel in panels(dashboard):
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if panel["id"] in ids or own & cells or place["x"] + place["w"] > 24:
            raise Failure(f"{name}: panel {panel['title']} has another's id or place")
        ids.add(panel["id"])
        cells |= own
        if panel["type"] == "row":
            continue
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        if any(source != {"type": "prometheus", "uid": DATA_SOURCE} for source in sources):
            raise Failure(f"{name}: panel {panel['title']} does not use the variable DS_PROMETHEUS")


def write_configuration(root: Path, scratch: Path, metrics_port: str) -> Path:
    """The shipped configuration, aimed at the test's server and in a hurry."""
    shutil.copytree(root / "deploy/prometheus", scratch / "prometheus")
    path = scratch / "prometheus/prometheus.yml"
    text = path.read_text(encoding="utf-8")
    for old, new in (
        ("farspan:8002", f"127.0.0.1:{metrics_port}"),
        ("scrape_interval: 5s", "scrape_interval: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
    ):
        if text.count(old) != 1:
            raise Failure(f"{path.name}: expected '{old}' once")
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def finish(command: list[str], status: int, deadline: float, process: subprocess.Popen[bytes]) -> None:
    """Waits for a call of the command line to end as it should."""
    try:
        _, errors = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failure(f"farspan {command[1]}: not in time") from None
    if process.returncode != status:
        raise Failure(f"farspan {command[1]}: exit status {process.returncode}: {errors.decode()}")


def run_load(call: list[str], specs: list[str], deadline: float) -> None:
    """Every policy in one batch on one prompt, in two waves so that the second finds the prompt cached; a comparison; a
    call that is refused."""
    cli, *flags = call
    prompt = ["--prompt", "All the world is a stage, and all the men and women are merely players. " * 12]
    flags = [*flags, *prompt, "--temperature", "0", "--max-tokens", "60"]
    others = [argument for spec in specs for argument in ("--attention", spec)]
    wave = [[cli, "generate", *flags, "--ignore-eos", "--attention", spec] for spec in specs]
    for commands in (wave, wave, [[cli, "compare", *flags, "--reference", "dense", *others]]):
        running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
        for command, process in zip(commands, running, strict=True):
            finish(command, 0, deadline, process)
    refused = subprocess.run([cli, "generate", *flags, "--model", "another"], capture_output=True, check=False)
    if refused.returncode == 0:
        raise Failure("a request for another model was not refused")


def long_calls(call: list[str], specs: list[str]) -> Iterator[list[str]]:
    """Calls that fill the seats for as long as the checks take: one a policy, and samples until some must wait."""
    cli, *flags = call
    base = [cli, "generate", *flags, "--ignore-eos", "--max-tokens", "8000", "--temperature", "1"]
    for number, spec in enumerate(specs):
        yield [*base, "--attention", spec, "--prompt", f"{number}"]
    for number in range(SEATS // 8):
        yield [*base, "--prompt", f"samples {number}", "--n", "8"]


def check_data(prometheus: Prometheus, server: Process, root: Path, policies: list[str], deadline: float) -> int:
    """Every expression has data, every variable an option, every rule is healthy; how many expressions."""
    wanted = [expression for name, dashboard in dashboards(root) for expression in expressions(name, dashboard)]
    for expression in wanted:
        query = expression.filled()

        def answer(expression: Expression = expression, query: str = query) -> bool | None:
            return expression.is_answered_by(prometheus.finite(query), len(policies)) or None

        server.until(f"{expression.dashboard}: {expression.panel} has no data: {query}", deadline, answer)
    for name, dashboard in dashboards(root):
        for variable in dashboard["templating"]["list"]:
            if variable["type"] != "query":
                continue
            query = Expression(name, variable["name"], variable["query"]["query"]).filled()
            current = variable["current"]["value"]
            options = prometheus.label_values(query)
            if not options or (isinstance(current, str) and current not in options):
                raise Failure(f"{name}: {variable['name']} has the options {options}, chosen is {current}")
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    unhealthy = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] == "err"]
    if unhealthy or not rules:
        raise Failure(f"rules: {unhealthy or 'none was loaded'}")
    return len(wanted)


def start_server(stack: ExitStack, path: str, scratch: Path, deadline: float) -> tuple[Process, str, str]:
    """And the ports of gRPC and of the metrics."""
    flags = ["--threads", "1", "--max-num-seqs", str(SEATS), "--kv-cache-bytes", str(KV_CACHE_BYTES)]
    flags += ["--grpc-port", "0", "--metrics-port", "0", "--drain-notice-seconds", "0", "--drain-timeout-seconds", "1"]
    command = [path, "--model", MODEL, "--served-model-name", MODEL_NAME, *flags]
    server = stack.enter_context(Process(command, scratch / "server.log"))
    ports = server.until("the server", deadline, lambda: server.logged(r'"grpc_port":(\d+),"metrics_port":(\d+)'))
    return server, ports[1], ports[2]


def start_prometheus(stack: ExitStack, configuration: Path, deadline: float) -> tuple[Process, Prometheus]:
    """On a free port."""
    scratch = configuration.parent
    command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={scratch / 'data'}"]
    command += ["--web.listen-address=127.0.0.1:0", "--log.format=logfmt"]
    process = stack.enter_context(Process(command, scratch / "prometheus.log"))
    listening = r'msg="Listening on" address=127\.0\.0\.1:(\d+)'
    port = process.until("Prometheus", deadline, lambda: process.logged(listening))
    prometheus = Prometheus(port[1])
    process.until("Prometheus's storage", deadline, lambda: prometheus.is_ready() or None)
    return process, prometheus


def run(root: Path, server_path: str, cli_path: str) -> str:
    """The whole test; what it saw."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    for name, dashboard in dashboards(root):
        check_form(name, dashboard)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, grpc_port, metrics_port = start_server(stack, server_path, scratch, deadline)
        call = [cli_path, "--server", f"127.0.0.1:{grpc_port}"]
        process, prometheus = start_prometheus(stack, write_configuration(root, scratch, metrics_port), deadline)
        # Rates need a sample from before the load.
        scraped = partial(prometheus.finite, 'up{job="farspan"} == 1')
        process.until("the first scrape", deadline, lambda: scraped() or None)
        policies = prometheus.label_values("label_values(farspan_policy_info, attention_policy)")
        specs = [OPTIONS.get(policy, policy) for policy in policies]
        run_load(call, specs, deadline)
        for number, command in enumerate(long_calls(call, specs)):
            stack.enter_context(Process(command, scratch / f"call{number}.log"))
        count = check_data(prometheus, server, root, policies, deadline)
    return f"{count} expressions have data under the policies {', '.join(policies)}"


def main() -> int:
    """Exit status: 0 when all is well."""
    if shutil.which("prometheus") is None:
        print("skipped: prometheus is not installed (Debian package prometheus)")
        return EXIT_SKIPPED
    root, server_path, cli_path = sys.argv[1:]
    try:
        print(run(Path(root), server_path, cli_path))
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
