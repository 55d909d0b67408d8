"""A Lambda function on a schedule, of which one instance works at a time."""

import os
import time

import onelock

# Made once for each cold start, and opened by the first event. $ONELOCK_URL is the table.
locker = onelock.Locker()


def remaining(event, context):
    """Returns the seconds that are left of the invocation."""
    return context.get_remaining_time_in_millis() / 1000


def handler(event, context):
    """Works, or skips if another instance works."""
    # The owner is in the log of each refused instance: search the log group for its request id.
    owner = f"{context.function_name}/{context.aws_request_id}"
    guard = locker.try_acquire(os.environ["LOCK_NAME"], owner=owner, deadline=remaining(event, context))
    if not guard:
        print(f"skipped: held by {guard.holder}", flush=True)
        return {"skipped": guard.holder.owner}
    # Raises LockLost if the lock was lost before the end of the work.
    with guard:
        if guard.crashed_holder:
            print(f"took over from {guard.crashed_holder}", flush=True)
        return {"steps": work(event, guard)}


def work(event, guard):
    """Checks the lock before each step: an instance that was frozen past its lease takes no more."""
    steps = event.get("steps", 1)
    for step in guard.each(range(1, steps + 1)):
        print(f"step {step} of {steps}, token {guard.token}", flush=True)
        time.sleep(event.get("pause_ms", 0) / 1000)
    return steps
