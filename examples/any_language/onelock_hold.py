"""A client of `onelock hold --json` for Python's standard library, to copy."""

import contextlib
import itertools
import json
import queue
import subprocess
import sys
import threading
import time
from datetime import datetime


class LockHeld(Exception):
    """Another client holds the lock; the argument is its holder."""


class LockLost(Exception):
    """The lock is no longer held: stop the work. The argument is the reason."""


class Guard:
    """A held lock. `lost` is None, or the reason of the loss."""

    def __init__(self, grant):
        self.token, self.lost = grant["token"], None
        self.extend(grant)

    def extend(self, grant):
        wall = grant["expires_at"]
        wall = wall and datetime.fromisoformat(wall.replace("Z", "+00:00")).timestamp()
        self._until = (grant["valid_until"], wall)

    def check(self):
        """Raises LockLost unless the lock is held. Reads two clocks only: call it before each step."""
        boot, wall = self._until
        # A stopped `onelock hold` says nothing, and a paused machine is seen by its wall clock alone.
        if boot is not None and time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= boot:
            self.lost = self.lost or "expired"
        if wall is not None and time.time() >= wall:
            self.lost = self.lost or "expired"
        if self.lost:
            raise LockLost(self.lost)


class Onelock:
    """A process `onelock hold --json`, and the locks that it holds. Threads may share it."""

    def __init__(self, *options):
        command = ["onelock", "hold", "--json", *options]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, encoding="utf-8", bufsize=1, **pipes)
        hello = json.loads(self._process.stdout.readline() or '{"error": {"message": "onelock did not start"}}')
        if "error" in hello:
            raise OSError(hello["error"]["message"])
        self._ids, self._mutex, self._replies, self._guards = itertools.count(1), threading.Lock(), {}, {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            message = json.loads(line)
            with self._mutex:
                grant = message.get("ok", {})
                if grant.get("held") and "guard" in grant:
                    # Here, because the next line may be about this guard already.
                    self._guards[grant["guard"]] = grant["object"] = Guard(grant)
                guard = self._guards.get(message.get("guard"))
                if guard and message["event"] == "renewed":
                    guard.extend(message)
                elif guard and message["event"] == "lost":
                    guard.lost = message["reason"]
                elif message.get("id") in self._replies:
                    self._replies.pop(message["id"]).put(message)
        with self._mutex:
            # Whatever ended onelock, it holds no lock any more.
            for guard in self._guards.values():
                guard.lost = guard.lost or "onelock ended"
            for reply in self._replies.values():
                reply.put({"error": {"message": "onelock ended"}})
            self._replies = None

    def ask(self, **request):
        message = self._send(request).get()
        if "error" in message:
            raise OSError(message["error"]["message"])
        return message["ok"]

    def _send(self, request):
        reply = queue.Queue()
        with self._mutex:
            if self._replies is None:
                raise OSError("onelock ended")
            request["id"] = next(self._ids)
            self._replies[request["id"]] = reply
            self._process.stdin.write(json.dumps(request) + "\n")
        return reply

    @contextlib.contextmanager
    def hold(self, name, wait=None, **options):
        """Holds the lock in a `with`. `wait` in seconds: None waits for as long as it takes, 0 tries once."""
        grant = self.ask(op="acquire", name=name, wait=wait, **options)
        if not grant["held"]:
            raise LockHeld(grant["holder"]["owner"])
        guard = grant["object"]
        try:
            yield guard
            guard.check()
        finally:
            # If onelock has ended, it holds nothing.
            with contextlib.suppress(OSError):
                reply = self._send({"op": "release", "guard": grant["guard"]})
                # A stopped onelock would not answer.
                if not guard.lost:
                    reply.get()
            self._guards.pop(grant["guard"], None)


def main():
    try:
        with Onelock(*sys.argv[1:]).hold("nightly-etl", wait=0) as guard:
            print(f"held nightly-etl token={guard.token}", flush=True)
            for step in sys.stdin:
                guard.check()
                print(f"step {step.strip()}", flush=True)
        print("released", flush=True)
    except LockHeld as held:
        print(f"skipped: held by {held}", flush=True)
        sys.exit(1)
    except LockLost as lost:
        print(f"lost: {lost}", flush=True)
        sys.exit(75)


if __name__ == "__main__":
    main()
