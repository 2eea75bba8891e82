// Everything this service needs to know comes from the environment; `.env` in the working directory fills what is not set.
import { createHash } from "node:crypto";
import dotenv from "dotenv";

dotenv.config({ quiet: true });

function required(name) {
  const value = process.env[name];
  if (!value) {
    throw new Error(`${name} is not set. Put it into ${process.cwd()}/.env or into the environment.`);
  }
  return value;
}

function integer(name, fallback) {
  const text = process.env[name];
  if (text === undefined || text === "") return fallback;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new Error(`${name} must be a whole number, found ${JSON.stringify(text)}.`);
  return value;
}

function url(name) {
  const text = required(name);
  try {
    new URL(text);
  } catch {
    // The value holds a password: it is never repeated in a message.
    throw new Error(`${name} is not a URL. Characters such as # / @ ? in the password must be percent-encoded.`);
  }
  return text;
}

const SSL_MODES = { disable: false, require: { rejectUnauthorized: false }, "verify-full": { rejectUnauthorized: true } };

function ssl() {
  const mode = process.env.DATABASE_SSL || "disable";
  if (!(mode in SSL_MODES)) {
    throw new Error(`DATABASE_SSL must be one of ${Object.keys(SSL_MODES).join(", ")}, found ${JSON.stringify(mode)}.`);
  }
  return SSL_MODES[mode];
}

export function load() {
  return Object.freeze({
    host: process.env.HOST || "0.0.0.0",
    port: integer("PORT", 3000),
    release: process.env.APP_RELEASE || "unreleased",
    companyId: integer("COMPANY_ID", 962302),
    databaseUrl: url("DATABASE_URL"),
    databaseSsl: ssl(),
    databasePool: integer("DATABASE_POOL_MAX", 5),
    redisUrl: url("REDIS_URL"),
    queue: process.env.QUEUE_NAME || "confirmations",
    concurrency: integer("WORKER_CONCURRENCY", 4),
    sweepSeconds: integer("SWEEP_SECONDS", 10),
    drainSeconds: integer("DRAIN_SECONDS", 5),
  });
}

/** A short name of the configured database without its password, so that two processes can be compared. */
export function databaseName(config) {
  const { hostname, port, pathname } = new URL(config.databaseUrl);
  return createHash("sha256").update(`${hostname}:${port}${pathname}`).digest("hex").slice(0, 12);
}
