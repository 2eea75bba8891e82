// Starting and ending one process as PM2 expects it.
import cluster from "node:cluster";
import { once } from "node:events";
import { log } from "./log.js";

export function announceReady() {
  if (process.send) process.send("ready");
}

/**
 * In a cluster, waits until the primary hands this worker no more connections: one may be on its way here, and exit() would lose it while its
 * client waits for an answer. What still arrives after close() is given back, and the primary hands it to another worker.
 */
async function leaveCluster() {
  if (!cluster.isWorker || !cluster.worker.isConnected()) return;
  const left = once(process, "disconnect");
  cluster.worker.disconnect();
  await left;
}

/** Runs `close()` once on SIGINT or SIGTERM, leaves the cluster, and ends the process, at the latest after `seconds`. */
export function onStop(seconds, close) {
  let stopping = false;
  const stop = async (signal) => {
    if (stopping) return;
    stopping = true;
    log("stopping", { signal });
    setTimeout(() => {
      log("stopping took too long", { seconds });
      process.exit(1);
    }, seconds * 1000).unref();
    try {
      await close();
      await leaveCluster();
      log("stopped");
      process.exit(0);
    } catch (error) {
      log("stopping failed", { message: error.message });
      process.exit(1);
    }
  };
  process.on("SIGINT", () => stop("SIGINT"));
  process.on("SIGTERM", () => stop("SIGTERM"));
}
