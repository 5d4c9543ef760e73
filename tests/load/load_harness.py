# SPDX-License-Identifier: Apache-2.0
"""What the load scripts share: a server as a process, `farspan bench`, checks, and the record of a run."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
BENCH_TIMEOUT_S = 900

_SERVING_PORTS = re.compile(r'"grpc_port":(\d+),"metrics_port":(\d+)')
_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parser(description: str) -> argparse.ArgumentParser:
    """The flags of every load script."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument(
        "--bin", type=Path, default=ROOT / "build" / "cpu-release" / "bin", help="folder of farspan and farspan-server"
    )
    flags.add_argument("--note", default="", help="a sentence for the record: what else ran on the machine")
    flags.add_argument("--no-record", action="store_true", help="writes no file into tests/bench/results")
    return flags


@dataclass(frozen=True)
class Sample:
    """One line of a scrape."""

    name: str
    labels: dict[str, str]
    value: float


class Scrape:
    """A server's metrics at one time."""

    def __init__(self, text: str) -> None:
        matches = (_SAMPLE.match(line) for line in text.splitlines() if not line.startswith("#"))
        self.samples = [
            Sample(match["name"], dict(_LABEL.findall(match["labels"] or "")), float(match["value"]))
            for match in matches
            if match is not None
        ]

    def by(self, name: str, label: str, **wanted: str) -> Counter[str]:
        """Sums over a family by one label's values, zeros left out; of samples that have the labels wanted."""
        sums: Counter[str] = Counter()
        for sample in self.samples:
            if sample.name == name and all(sample.labels.get(key) == value for key, value in wanted.items()):
                sums[sample.labels.get(label, "")] += round(sample.value)
        return Counter({value: count for value, count in sums.items() if count})

    def total(self, name: str, **wanted: str) -> float:
        """The sum over a family's samples that have the labels wanted."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in wanted.items())
        )


class Server:
    """A farspan-server on free ports, its log in a file; ended by SIGTERM."""

    def __init__(self, binaries: Path, flags: Sequence[str]) -> None:
        self.flags = list(flags)
        self._log = tempfile.NamedTemporaryFile(prefix="farspan-load-", suffix=".log")  # noqa: SIM115
        command = [str(binaries / "farspan-server"), "--grpc-port", "0", "--metrics-port", "0"]
        command += ["--drain-notice-seconds", "0", *self.flags]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self.grpc_port, self.metrics_port = self._wait_until_serving()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()
        self._log.close()

    @property
    def target(self) -> str:
        """HOST:PORT of the gRPC services."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """Where the metrics are."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def log_lines(self) -> list[dict[str, Any]]:
        """Everything logged so far."""
        lines = Path(self._log.name).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def scrape(self) -> Scrape:
        """The metrics now."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            return Scrape(answer.read().decode("utf-8"))

    def rss_mib(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) / 1024

    def wait_for_idle(self, timeout_s: float) -> dict[str, float]:
        """Waits until nothing runs and waits and no page is in use; what it last saw."""
        deadline = time.monotonic() + timeout_s
        while True:
            scrape = self.scrape()
            seen = {
                "running": scrape.total("farspan_requests_running"),
                "waiting": scrape.total("farspan_requests_waiting"),
                "pages_used": scrape.total("farspan_kv_pages", state="used"),
                "streams": scrape.total("farspan_grpc_streams_active"),
            }
            if not any(seen.values()) or time.monotonic() > deadline:
                return seen
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def _wait_until_serving(self) -> tuple[int, int]:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            ports = _SERVING_PORTS.search(Path(self._log.name).read_text(encoding="utf-8"))
            if ports is not None:
                return int(ports[1]), int(ports[2])
            time.sleep(0.05)
        self._process.kill()
        raise RuntimeError(f"the server does not serve:\n{Path(self._log.name).read_text(encoding='utf-8')}")


class RssSampler:
    """Samples a server's memory in the background while it is open."""

    def __init__(self, server: Server, interval_s: float = 0.5) -> None:
        self.samples: list[tuple[float, float]] = []  # seconds since the start, MiB
        self._server = server
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> RssSampler:
        self._thread.start()
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        start = time.monotonic()
        while not self._stop.is_set():
            self.samples.append((time.monotonic() - start, self._server.rss_mib()))
            self._stop.wait(self._interval_s)


def bench(binaries: Path, server: Server, flags: Sequence[str]) -> dict[str, Any]:
    """`farspan bench --json`; a bench in which nothing succeeded has its JSON too."""
    command = [str(binaries / "farspan"), "bench", "--json", "--quiet", "--server", server.target]
    command += ["--metrics-url", server.metrics_url, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BENCH_TIMEOUT_S, check=False)
    if not done.stdout:
        raise RuntimeError(f"farspan bench ended with {done.returncode}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows of all runs of a bench."""
    return [row for run in result["runs"] for row in run["rows"]]


@dataclass
class Record:
    """What was run, measured and checked, as text and as a file."""

    name: str
    note: str
    facts: list[str] = field(default_factory=list)
    checks: list[tuple[str, bool, str]] = field(default_factory=list)

    def fact(self, text: str) -> None:
        """A line of the record, printed at once."""
        self.facts.append(text)
        print(text, flush=True)

    def check(self, what: str, holds: bool, seen: str) -> None:
        """A requirement and what was seen."""
        self.checks.append((what, holds, seen))
        print(f"{'pass' if holds else 'FAIL'}: {what}: {seen}", flush=True)

    @property
    def passed(self) -> bool:
        """Every check holds."""
        return all(holds for _, holds, _ in self.checks)

    def finish(self, write: bool) -> int:
        """Writes the record where wanted; the exit status of the script."""
        if write:
            now = datetime.now(UTC)
            RESULTS.mkdir(parents=True, exist_ok=True)
            path = RESULTS / f"{self.name}_{now:%Y-%m-%d}.md"
            path.write_text(self._text(now), encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
        print("passed" if self.passed else "FAILED")
        return 0 if self.passed else 1

    def _text(self, now: datetime) -> str:
        lines = [f"# {self.name}, {now:%Y-%m-%d %H:%M} UTC", "", f"- Machine: {_processor()}. {self.note}".rstrip()]
        lines += [f"- {fact}" for fact in self.facts]
        lines += ["", "| requirement | holds | seen |", "|---|---|---|"]
        lines += [f"| {what} | {'yes' if holds else '**no**'} | {seen} |" for what, holds, seen in self.checks]
        return "\n".join(lines) + "\n"


def _processor() -> str:
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return f"{match[1] if match else 'unknown processor'}, {os.cpu_count()} processors"
