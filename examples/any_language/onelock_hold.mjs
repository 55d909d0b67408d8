// A client of `onelock hold --json` for Node, without packages, to copy.
import { spawn } from "node:child_process";
import os from "node:os";
import process from "node:process";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

export class LockHeld extends Error {}
export class LockLost extends Error {}

/** A held lock. `signal` is aborted when the lock is lost, with the reason. */
class Guard {
  #abort = new AbortController();
  #until;

  constructor(grant) {
    this.number = grant.guard;
    this.token = grant.token;
    this.signal = this.#abort.signal;
    this.extend(grant);
  }

  extend(grant) {
    this.#until = [grant.valid_until, grant.expires_at && Date.parse(grant.expires_at)];
  }

  lose(reason) {
    if (!this.signal.aborted) this.#abort.abort(new LockLost(reason));
  }

  /** Throws LockLost unless the lock is held. Reads two clocks only: call it before each step. */
  check() {
    const [boot, wall] = this.#until;
    // A stopped `onelock hold` says nothing. `uptime` is CLOCK_BOOTTIME, cut to 10 ms.
    if (boot !== null && os.uptime() + 0.01 >= boot / 1e9) this.lose("expired");
    if (wall !== null && Date.now() >= wall) this.lose("expired");
    this.signal.throwIfAborted();
  }
}

/** A process `onelock hold --json`, and the locks that it holds. */
export class Onelock {
  #process;
  #replies = new Map();
  #guards = new Map();
  #last = 0;
  #ended = false;

  static async start(...options) {
    const lock = new Onelock();
    lock.#process = spawn("onelock", ["hold", "--json", ...options], { stdio: ["pipe", "pipe", "inherit"] });
    // A write to a onelock that has ended fails, which the end of its output tells already.
    lock.#process.stdin.on("error", () => {});
    const hello = new Promise((resolve) => lock.#replies.set(undefined, resolve));
    lock.#process.on("error", (error) => lock.#end(error.message));
    readline.createInterface({ input: lock.#process.stdout }).on("line", (line) => lock.#read(line))
      .on("close", () => lock.#end("onelock ended"));
    const { error } = await hello;
    if (error) throw new Error(error.message);
    return lock;
  }

  #read(line) {
    const message = JSON.parse(line);
    const guard = this.#guards.get(message.guard);
    if (message.event === "renewed") return guard?.extend(message);
    if (message.event === "lost") return guard?.lose(message.reason);
    if (message.event) return;
    if (message.ok?.held && message.ok.guard) {
      // Here, because the next line may be about this guard already.
      this.#guards.set(message.ok.guard, (message.ok.object = new Guard(message.ok)));
    }
    this.#replies.get(message.id)?.(message);
    this.#replies.delete(message.id);
  }

  // Whatever ended onelock, it holds no lock any more.
  #end(reason) {
    this.#ended = true;
    for (const guard of this.#guards.values()) guard.lose(reason);
    for (const reply of this.#replies.values()) reply({ error: { message: reason } });
    this.#replies.clear();
  }

  async ask(request) {
    if (this.#ended) throw new Error("onelock ended");
    const id = ++this.#last;
    const reply = new Promise((resolve) => this.#replies.set(id, resolve));
    this.#process.stdin.write(JSON.stringify({ ...request, id }) + "\n");
    const { ok, error } = await reply;
    if (error) throw new Error(error.message);
    return ok;
  }

  /** Runs `work(guard)` under the lock. `wait` in seconds: null waits as long as it takes, 0 tries once. */
  async using(name, options, work) {
    const grant = await this.ask({ op: "acquire", name, ...options });
    if (!grant.held) throw new LockHeld(grant.holder.owner);
    const guard = grant.object;
    try {
      const result = await work(guard);
      guard.check();
      return result;
    } finally {
      // If onelock has ended, it holds nothing. A stopped onelock would not answer.
      const released = this.ask({ op: "release", guard: guard.number }).catch(() => {});
      if (!guard.signal.aborted) await released;
      this.#guards.delete(guard.number);
    }
  }

  close() {
    this.#process.stdin.end();
  }
}

async function main() {
  const lock = await Onelock.start(...process.argv.slice(2));
  await lock.using("nightly-etl", { wait: 0 }, async (guard) => {
    console.log(`held nightly-etl token=${guard.token}`);
    const steps = readline.createInterface({ input: process.stdin });
    guard.signal.addEventListener("abort", () => steps.close());
    for await (const step of steps) {
      guard.check();
      console.log(`step ${step}`);
    }
  });
  lock.close();
  console.log("released");
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  main().catch((error) => {
    console.log(error instanceof LockHeld ? `skipped: held by ${error.message}` : `lost: ${error.message}`);
    process.exit(error instanceof LockHeld ? 1 : error instanceof LockLost ? 75 : 70);
  });
}
