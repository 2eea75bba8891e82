// Sends confirmations: one job for each accepted booking, and a sweep for those whose job was lost.
import { setTimeout as sleep } from "node:timers/promises";
import * as bookings from "./bookings.js";
import { load } from "./config.js";
import { Database } from "./database.js";
import { announceReady, onStop } from "./lifecycle.js";
import { log } from "./log.js";
import { connect, consumer } from "./queue.js";

const config = load();
const database = new Database(config, "booking-worker");
const redis = connect(config, "booking-worker", { blocking: true });
const stop = new AbortController();

const confirm = (requestId) => database.transaction((client) => bookings.confirm(client, requestId));

const worker = consumer(config, redis, async (job) => {
  const done = await confirm(job.data.request_id);
  return { done };
});

async function sweep() {
  while (!stop.signal.aborted) {
    try {
      await sleep(config.sweepSeconds * 1000, undefined, { signal: stop.signal });
      const late = await database.transaction((client) => bookings.unconfirmed(client, config.sweepSeconds));
      for (const requestId of late) await confirm(requestId);
      if (late.length > 0) log("confirmation: swept", { count: late.length });
    } catch (error) {
      if (!stop.signal.aborted) log("confirmation: sweep failed", { code: error.code, message: error.message });
    }
  }
}

const sweeping = sweep();
worker.on("ready", () => log("worker: ready", { queue: config.queue, release: config.release }));

onStop(config.drainSeconds + 3, async () => {
  stop.abort();
  await worker.close();
  await sweeping;
  await database.close();
  redis.disconnect();
});
announceReady();
