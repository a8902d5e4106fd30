"""Measure a server beside `regraft predict`: speed, patience, and what happens when things go wrong.

    start       from the command to the first "ready"; the target is 2.5 s
    speed       images a second of `Bundle.predict`, and of 8 clients; the target is 0.8 of it
    wait        one request at a time, and the 99th percentile of 4 clients; the target is 4 times the first
    trickle     the same beside 1,000 connections that send a byte a second; the target is twice the wait
    broken      damaged files: each answer has the code of training
    end         SIGHUP and SIGTERM under load; the target is 0 lost requests
    memory      of the server, before and after all of it

Photographs are JPEG files of about 200 KB. Clients run in a process of their own, on the same processors as
the server. Besides wall-clock time, processor time for an image is shown: on a busy machine only that can be
compared. All of it runs on this machine, and ends by itself.

usage: serving.py RUN [--images FOLDER] [--requests N] [--broken N] [--trickling N]
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from rows import IMAGES, SHARED

TARGET_BYTES = 200_000
TICKS = os.sysconf("SC_CLK_TCK")
LIBRARY = """
import sys, time, resource
from pathlib import Path
import regraft
files = sorted(map(str, Path(sys.argv[2]).iterdir())) * int(sys.argv[3])
bundle = regraft.load(sys.argv[1])
list(bundle.predict(files[:16]))
def busy():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
start, used = time.perf_counter(), busy()
count = sum(1 for _ in bundle.predict(files))
print(count / (time.perf_counter() - start), 1e3 * (busy() - used) / count)
"""


def make_photographs(source: Path, folder: Path, count: int) -> list[Path]:
    """Write photographs as JPEG files of about 200 KB: larger, and in the quality that gives this size."""
    files = sorted(source.rglob("*.jpg"))[:: max(1, len(list(source.rglob("*.jpg"))) // count)][:count]
    paths = []
    for number, file in enumerate(files):
        with Image.open(file) as opened:
            photograph = opened.convert("RGB").resize((1000, 1333), Image.Resampling.BICUBIC)
        for quality in (98, 95, 92, 88, 80, 70):
            buffer = io.BytesIO()
            photograph.save(buffer, "JPEG", quality=quality)
            if buffer.tell() < 1.15 * TARGET_BYTES:
                break
        paths.append(folder / f"{number:03}.jpg")
        paths[-1].write_bytes(buffer.getvalue())
    return paths


# --- the server


class Server:
    """A server in a process of its own, and the seconds until it was ready."""

    def __init__(self, run: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log, start = log, time.perf_counter()
        command = [sys.executable, "-m", "regraft", "serve", str(run), "--port", str(self.port)]
        with log.open("w") as stream:
            self.process = subprocess.Popen(command, stderr=stream)
        while not self.is_ready():
            if self.process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.01)
        self.start_seconds = time.perf_counter() - start

    def is_ready(self) -> bool:
        try:
            return ask(self.port, "GET", "/v2/health/ready")[0] == 200
        except OSError:
            return False

    def list_processes(self) -> list[int]:
        """Return the IDs of the server and its decoders."""
        number = self.process.pid
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        threads = Path(f"/proc/{number}/task").iterdir()
        others = [child for thread in threads for child in (thread / "children").read_text().split()]
        return [number, *{int(child) for child in (*children, *others)}]

    def count_seconds(self) -> float:
        """Return the processor time of the server and its decoders so far."""
        fields = [
            Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in self.list_processes()
        ]
        return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS

    def measure_memory(self) -> float:
        """Return the memory of the server and its decoders in MB."""
        pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in self.list_processes()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def run_server(run: Path, folder: Path) -> Iterator[Server]:
    server = Server(run, folder / f"server-{time.monotonic_ns()}.log")
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


# --- clients


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Ask on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body or None, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def run_clients(port: int, files: list[bytes], requests: int, clients: int) -> list[float]:
    """Return the seconds of each request; clients keep their connections."""
    seconds: list[float] = []
    waiting = iter(range(requests))

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in waiting:
            start = time.perf_counter()
            connection.request("POST", "/predict", files[number % len(files)], {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise SystemExit(f"expected an answer, received {response.status}")
            seconds.append(time.perf_counter() - start)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def load(server: Server, folder: Path, requests: int, clients: int) -> tuple[np.ndarray, float, float]:
    """Return the seconds of each request, images a second, and ms of the server's processor time an image."""
    used = server.count_seconds()
    out = subprocess.run(
        [sys.executable, __file__, "--client", str(server.port), str(folder), str(requests), str(clients)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    answer = json.loads(out)
    used = server.count_seconds() - used
    return np.array(answer["seconds"]), requests / answer["total"], 1e3 * used / requests


@contextmanager
def trickle(port: int, count: int) -> Iterator[None]:
    """Hold connections open that send a byte a second, and open those again that the server closed."""
    is_over = threading.Event()

    def work() -> None:
        connections: list[socket.socket] = []
        while not is_over.is_set():
            while len(connections) < count:
                try:
                    connection = socket.create_connection(("127.0.0.1", port))
                    connection.sendall(
                        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
                    )
                    connections.append(connection)
                except OSError:
                    break
            for connection in list(connections):
                try:
                    connection.sendall(b"X")
                except OSError:
                    connection.close()
                    connections.remove(connection)
            is_over.wait(1.0)
        for connection in connections:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(3)
    try:
        yield
    finally:
        is_over.set()
        thread.join()


# --- the parts


def measure_speed(server: Server, run: Path, photographs: Path, requests: int) -> None:
    times = max(1, requests // len(list(photographs.iterdir())))
    command = [sys.executable, "-c", LIBRARY, str(run), str(photographs), str(times)]
    rates: dict[str, list[tuple[float, float]]] = {"library": [], "server": []}
    for _ in range(3):
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        rates["library"].append((float(out[-2]), float(out[-1])))
        _, rate, used = load(server, photographs, requests, 8)
        rates["server"].append((rate, used))
    (library, library_used), (served, used) = (np.median(rates[name], axis=0) for name in rates)
    print(
        f"speed    Bundle.predict {library:.1f} images/s ({library_used:.1f} ms of processor time an image)"
    )
    print(f"         8 clients {served:.1f} images/s ({used:.1f} ms), {served / library:.2f} of it")


def measure_waiting(server: Server, photographs: Path, requests: int, trickling: int) -> None:
    single, _, _ = load(server, photographs, requests // 2, 1)
    four, _, _ = load(server, photographs, requests, 4)
    median, tail = 1e3 * np.median(single), 1e3 * np.quantile(four, 0.99)
    print(
        f"wait     one at a time {median:.1f} ms (median), 4 clients {tail:.1f} ms (99 %): "
        f"{tail / median:.1f} times"
    )
    with trickle(server.port, trickling):
        slow, _, _ = load(server, photographs, requests, 4)
    other = 1e3 * np.quantile(slow, 0.99)
    print(f"trickle  {trickling:,} slow connections: {other:.1f} ms (99 %): {other / tail:.1f} times")


def send_broken(server: Server, files: list[bytes], count: int, corpora: Path) -> None:
    from regraft.data.images.decode import decode
    from regraft.data.images.rejections import Rejection

    generator, codes = random.Random(0), {}
    bodies = [damage(generator.choice(files), generator) for _ in range(count)]
    bodies += [file.read_bytes() for file in sorted(corpora.rglob("*")) if file.is_file()]
    different, failures, decoder = [], 0, server.list_processes()
    for body in bodies:
        try:
            decode(body, 224)
            expected = "ok"
        except Rejection as rejection:
            expected = rejection.code
        status, content = ask(server.port, "POST", "/predict", body)
        code = "ok" if status == 200 else json.loads(content)["error"]["code"]
        codes[code] = codes.get(code, 0) + 1
        failures += status >= 500
        if code != expected:
            different.append((expected, code))
    is_alive = ask(server.port, "POST", "/predict", files[0])[0] == 200
    lost = len(set(decoder) - set(server.list_processes()))
    print(f"broken   {len(bodies):,} bodies: {len(different)} other codes than training {different[:3]}, "
          f"{failures} answers of 500 and above, {lost} decoders died, alive: {is_alive}")  # fmt: skip
    print(f"         {', '.join(f'{code} {number}' for code, number in sorted(codes.items()))}")


def damage(data: bytes, generator: random.Random) -> bytes:
    """Return a file that is cut off, changed at a few places, or both."""
    changed = bytearray(data[: generator.randrange(1, len(data))] if generator.random() < 0.5 else data)
    for _ in range(generator.randrange(0, 9)):
        changed[generator.randrange(min(len(changed), generator.choice((64, 2_000, len(changed)))))] ^= (
            generator.randrange(1, 256)
        )
    return bytes(changed)


def measure_losses(run: Path, folder: Path, photographs: list[bytes]) -> None:
    copy = Path(shutil.copytree(run, folder / "copy"))
    with run_server(copy, folder) as server:
        answers: list[int] = []
        lost: list[str] = []

        def work() -> None:
            while True:
                try:
                    answers.append(ask(server.port, "POST", "/predict", photographs[0])[0])
                except ConnectionRefusedError:
                    return
                except OSError as error:
                    lost.append(repr(error))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        for number in range(3):
            manifest = copy / "manifest.json"
            manifest.write_text(manifest.read_text() + "\n")  # another version
            server.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 60
            while len(re.findall("Reloaded", server.log.read_text())) <= number and time.monotonic() < end:
                time.sleep(0.1)
        reloads = len(re.findall("Reloaded", server.log.read_text()))
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)
        for thread in threads:
            thread.join()
    print(
        f"end      {len(answers):,} answers of {sorted(set(answers))}, {reloads} reloads, exit code {code}: "
        f"{len(lost)} requests lost {lost[:2]}"
    )


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        port, folder, requests, clients = sys.argv[2:6]
        files = [file.read_bytes() for file in sorted(Path(folder).iterdir())]
        run_clients(int(port), files, int(clients), int(clients))
        start = time.perf_counter()
        seconds = run_clients(int(port), files, int(requests), int(clients))
        print(json.dumps({"seconds": seconds, "total": time.perf_counter() - start}))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=Path, default=IMAGES / "test")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--broken", type=int, default=2000)
    parser.add_argument("--trickling", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, photographs = Path(name), Path(name) / "photographs"
        photographs.mkdir()
        paths = make_photographs(options.images, photographs, 40)
        files = [path.read_bytes() for path in paths]
        print(f"{len(files)} photographs, {np.mean([len(file) for file in files]) / 1e3:.0f} KB on average")
        starts = []
        for _ in range(3):
            with run_server(options.run, folder) as server:
                starts.append((server.start_seconds, server.count_seconds()))
        (seconds, used), (least, _) = np.median(starts, axis=0), min(starts)
        print(f"start    {seconds:.2f} s, at best {least:.2f} s, {used:.2f} s of processor time")
        with run_server(options.run, folder) as server:
            load(server, photographs, 50, 8)
            before = server.measure_memory()
            measure_speed(server, options.run, photographs, options.requests)
            measure_waiting(server, photographs, options.requests, options.trickling)
            middle = server.measure_memory()
            send_broken(server, files, options.broken, SHARED / "corpora")
            after = server.measure_memory()
        print(f"memory   {before:.0f} MB, {middle:.0f} MB after the load, {after:.0f} MB at the end")
        measure_losses(options.run, folder, files)


if __name__ == "__main__":
    main()
