"""The clock on the wall jumps by days, forward and back, under a server at work."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore

import httpx
import pytest
from chaos.real_server import complete, engine_pids, serving

DAY = 86400.0
# In front of the C library's: the time of day, moved by the seconds in a file that is mapped.
CLOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static double moved(void) {
    static volatile double *seconds;
    if (!seconds) {
        int file = open(getenv("MOVED_BY"), O_RDONLY);
        seconds = mmap(0, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += moved();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (place) *place = exact.tv_sec;
    return exact.tv_sec;
}
"""


class Clock:
    """The time of day of processes with `environment`, `seconds` from ours."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None or sys.platform != "linux":
            pytest.skip("no C compiler")
        source, library, self._file = folder / "clocks.c", folder / "clocks.so", folder / "moved"
        source.write_text(CLOCKS)
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
        self.move(0.0)
        self.environment = {"LD_PRELOAD": str(library), "MOVED_BY": str(self._file)}

    def move(self, seconds: float) -> None:
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))


@pytest.mark.parametrize("days", [3, -3])
def test_a_jump_of_the_clock_ends_nothing(builtin_model: Path, tmp_path: Path, days: int) -> None:
    """No timeout of ours, or of what we use, is over sooner or later for it."""
    clock = Clock(tmp_path)
    options = ["--engine-timeout", "30", "--stream-stall-timeout", "30", "--request-timeout", "200"]
    with (
        serving(builtin_model, *options, environment=clock.environment) as (process, url),
        ThreadPoolExecutor(4) as pool,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        [engine] = engine_pids(process)
        begun = Semaphore(0)
        posts = [pool.submit(complete, url, 200, number, begun.release) for number in range(4)]
        for _ in posts:
            assert begun.acquire(timeout=60)
        clock.move(days * DAY)
        created = client.get("/v1/models").json()["data"][0]["created"]
        body = {"model": "smol", "prompt": "The sea is", "max_tokens": 4}
        answer = client.post("/v1/completions", json=body).json()
        # The clock has really moved, there and here.
        assert abs(answer["created"] - created - days * DAY) < DAY
        assert abs(answer["created"] - time.time() - days * DAY) < 600
        for post in posts:
            text = post.result()
            assert text.endswith("data: [DONE]\n\n")
            assert text.count('"finish_reason":"length"') == 1
        assert client.get("/health").status_code == 200
        clock.move(0.0)
        assert client.post("/v1/completions", json=body).status_code == 200
        assert engine_pids(process) == [engine]
        page = client.get("/metrics").text
    for line in page.splitlines():
        if "_seconds_sum" in line and line.startswith("octavo:"):
            assert 0 <= float(line.rpartition(" ")[2]) < 600, line
