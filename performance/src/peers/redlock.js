// redlock of Node, with the commands of peer.py: redlock.js PORT.
const readline = require("node:readline");
const { default: Redlock } = require("redlock");
const Redis = require("ioredis");

const redlock = new Redlock([new Redis(Number(process.argv[2]))], { retryCount: -1 });
const acquire = (name = "redlock") => redlock.acquire([name], 30_000);
let held;

const commands = {
  async cycles(count) {
    const times = [];
    for (let n = 0; n < Number(count); n++) {
      const start = process.hrtime.bigint();
      const lock = await acquire();
      await lock.release();
      times.push(process.hrtime.bigint() - start);
    }
    return times.join(" ");
  },
  async wait() {
    const lock = await acquire();
    const acquired = process.hrtime.bigint();
    await lock.release();
    return acquired;
  },
  async hold() {
    held = await acquire();
    return "held";
  },
  async release() {
    const before = process.hrtime.bigint();
    await held.release();
    return before;
  },
  async contend(name, seconds, tasks) {
    const end = performance.now() + 1000 * Number(seconds);
    const work = async (task) => {
      const waits = [];
      for (let start; (start = performance.now()) < end; ) {
        const lock = await acquire(name === "-" ? `own-${process.pid}-${task}` : name);
        const acquired = performance.now();
        if (acquired < end) waits.push((1000 * (acquired - start)).toFixed(1));
        await lock.release();
      }
      return waits;
    };
    const all = await Promise.all(Array.from({ length: Number(tasks) }, (_, task) => work(task)));
    return [all.filter((waits) => waits.length === 0).length, ...all.flat()].join(" ");
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [command, ...rest] = line.split(" ");
    console.log(String(await commands[command](...rest)));
  }
  process.exit();
})();
