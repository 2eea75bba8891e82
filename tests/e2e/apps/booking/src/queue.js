// The queue of confirmations. A booking is safe in the database before anything is queued, so the queue may be lost.
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { log } from "./log.js";

export function connect(config, name, { blocking = false } = {}) {
  const redis = new Redis(config.redisUrl, {
    connectionName: name,
    // BullMQ's worker waits for ever by design; the API must answer, so its commands fail at once while Redis is away.
    maxRetriesPerRequest: blocking ? null : 1,
    enableOfflineQueue: blocking,
    connectTimeout: 3000,
    retryStrategy: (attempt) => Math.min(100 * attempt, 2000),
  });
  redis.on("ready", () => log("redis: connection open"));
  redis.on("error", (error) => log("redis: error", { code: error.code, message: error.message }));
  return redis;
}

export function confirmations(config, redis) {
  const queue = new Queue(config.queue, {
    connection: redis,
    defaultJobOptions: { attempts: 8, backoff: { type: "exponential", delay: 500 }, removeOnComplete: 1000, removeOnFail: 1000 },
  });
  queue.on("error", (error) => log("queue: error", { message: error.message }));
  return queue;
}

export function consumer(config, redis, handle) {
  const worker = new Worker(config.queue, handle, { connection: redis, concurrency: config.concurrency });
  worker.on("error", (error) => log("queue: error", { message: error.message }));
  worker.on("failed", (job, error) => log("confirmation: failed", { job: job?.id, attempts: job?.attemptsMade, message: error.message }));
  return worker;
}
