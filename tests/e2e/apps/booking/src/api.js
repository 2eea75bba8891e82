// The HTTP API. Several processes share the port under PM2's cluster mode.
import { once } from "node:events";
import express from "express";
import * as bookings from "./bookings.js";
import { databaseName, load } from "./config.js";
import { Database, isUnavailable } from "./database.js";
import { announceReady, onStop } from "./lifecycle.js";
import { log } from "./log.js";
import { confirmations, connect } from "./queue.js";

const config = load();
const database = new Database(config, "booking-api");
const redis = connect(config, "booking-api");
const queue = confirmations(config, redis);
let draining = false;

const app = express();
app.disable("x-powered-by");
app.use((request, response, next) => {
  response.set("X-Release", config.release);
  // While this process ends, its clients must make their next request on a new connection.
  if (draining) response.set("Connection", "close");
  next();
});
app.use(express.json({ limit: "64kb" }));

function within(milliseconds, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: timeout after ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

app.get("/health", (request, response) => {
  response.json({ status: draining ? "draining" : "ok", release: config.release, pid: process.pid, uptime_seconds: process.uptime(),
    memory_bytes: process.memoryUsage.rss() });
});

app.get("/api/health/database", async (request, response) => {
  try {
    response.json({ status: "ok", configured: databaseName(config), ...(await database.identity()) });
  } catch (error) {
    response.status(503).set("Retry-After", "1").json({ status: "failed", configured: databaseName(config), code: error.code, error: error.message });
  }
});

app.get("/api/health/redis", async (request, response) => {
  try {
    const started = process.hrtime.bigint();
    const answer = await within(2000, redis.ping(), "PING");
    const latency = Number(process.hrtime.bigint() - started) / 1e6;
    const jobs = await within(2000, queue.getJobCounts("waiting", "active", "delayed", "failed"), "job counts");
    response.json({ status: "ok", answer, latency_ms: Math.round(latency * 1000) / 1000, jobs });
  } catch (error) {
    response.status(503).set("Retry-After", "1").json({ status: "failed", error: error.message });
  }
});

app.get("/api/catalog", async (request, response) => {
  response.json(await database.transaction((client) => bookings.catalog(client)));
});

app.get("/api/bookings", async (request, response) => {
  const limit = bookings.parseLimit(request.query.limit);
  response.json({ bookings: await database.transaction((client) => bookings.list(client, limit)) });
});

app.get("/api/bookings/:id", async (request, response) => {
  const booking = await database.transaction((client) => bookings.byId(client, request.params.id));
  if (!booking) return response.status(404).json({ error: "no such booking" });
  return response.json({ booking });
});

app.post("/api/bookings", async (request, response) => {
  const wanted = bookings.parseBooking(request.body);
  const { created, booking } = await database.transaction((client) => bookings.create(client, config.companyId, wanted));
  let confirmation = "none";
  if (created) {
    try {
      await within(2000, queue.add("confirm", { request_id: booking.request_id }, { jobId: `confirm-${booking.request_id}` }), "queue");
      confirmation = "queued";
    } catch (error) {
      // Accepted all the same: the worker looks for bookings without a confirmation.
      confirmation = "deferred";
      log("confirmation: deferred", { request_id: booking.request_id, message: error.message });
    }
  }
  response.status(created ? 201 : 200).json({ booking, confirmation });
});

app.get("/api/messages", async (request, response) => {
  const limit = bookings.parseLimit(request.query.limit);
  response.json({ messages: await database.transaction((client) => bookings.messages(client, limit)) });
});

app.post("/api/messages", async (request, response) => {
  response.status(201).json({ message: await database.transaction((client) => bookings.addMessage(client, config.companyId, request.body)) });
});

app.use((request, response) => response.status(404).json({ error: `no ${request.method} ${request.path} here` }));

// Express knows an error handler by its four arguments.
app.use((error, request, response, next) => {
  if (response.headersSent) return next(error);
  if (error instanceof bookings.BadRequest) return response.status(400).json({ error: error.message });
  if (typeof error.status === "number" && error.status < 500) return response.status(error.status).json({ error: error.message });
  if (["23503", "23514", "22007", "22008"].includes(error.code)) return response.status(422).json({ error: error.message, code: error.code });
  if (isUnavailable(error)) {
    return response.status(503).set("Retry-After", "1").json({ error: "the database takes no such request now", code: error.code ?? "connection" });
  }
  log("request failed", { method: request.method, path: request.path, code: error.code, message: error.message });
  return response.status(500).json({ error: "internal error" });
});

const server = app.listen(config.port, config.host);
server.keepAliveTimeout = 15000;
await once(server, "listening");
log("api: listening", { host: config.host, port: config.port, release: config.release });

onStop(config.drainSeconds + 3, async () => {
  draining = true;
  const closed = new Promise((resolve) => server.close(resolve));
  server.closeIdleConnections();
  setTimeout(() => server.closeAllConnections(), config.drainSeconds * 1000).unref();
  await closed;
  await Promise.allSettled([within(2000, queue.close(), "queue"), within(2000, database.close(), "database")]);
  redis.disconnect();
});
announceReady();
