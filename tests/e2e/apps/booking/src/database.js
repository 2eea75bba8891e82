// The connection pool, and transactions that carry the tenant's claims as Supabase's API does.
import pg from "pg";
import { log } from "./log.js";

// Conditions of the server and not of the request: the client should come again with the same request id.
const RETRY = new Set([
  "25006", // read_only_sql_transaction: writes are refused during a move
  "42501", // insufficient_privilege: write grants taken away during a move
  "40001", "40P01", // serialization failure, deadlock
  "53300", "53400", // too many connections
  "55P03", "57014", // lock timeout, statement timeout
  "57P01", "57P02", "57P03", // shutdown, crash, starting up
  "28000", "28P01", "3D000", // cannot log in, database missing
]);
// Identifiers stay far below 2^53: plain numbers, as a client sends them.
pg.types.setTypeParser(pg.types.builtins.INT8, Number);
const NETWORK = new Set(["ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT", "EPIPE", "ENOTFOUND", "EAI_AGAIN"]);
const LOST = /timeout|terminated|not queryable|connection error|closed/i;

/** True when the database could not serve: refused to write, or was not reached. */
export function isUnavailable(error) {
  if (!error) return false;
  if (typeof error.code === "string") {
    if (RETRY.has(error.code) || NETWORK.has(error.code) || error.code.startsWith("08")) return true;
    if (/^[0-9A-Z]{5}$/.test(error.code)) return false;
  }
  if (error instanceof AggregateError) return error.errors.every(isUnavailable);
  return error instanceof Error && LOST.test(error.message);
}

export class Database {
  constructor(config, name) {
    this.companyId = config.companyId;
    this.pool = new pg.Pool({
      connectionString: config.databaseUrl,
      ssl: config.databaseSsl,
      max: config.databasePool,
      application_name: name,
      keepAlive: true,
      connectionTimeoutMillis: 3000,
      query_timeout: 8000,
      idleTimeoutMillis: 30000,
      options: "-c lock_timeout=4000 -c statement_timeout=7000 -c idle_in_transaction_session_timeout=10000",
    });
    // An idle connection that breaks must not end the process: the pool makes a new one for the next query.
    this.pool.on("error", (error) => log("database: connection lost", { code: error.code, message: error.message }));
    this.pool.on("connect", (client) => {
      // The same while it is in use and between two queries: the query itself reports the error to its caller.
      client.on("error", (error) => log("database: connection lost", { code: error.code, message: error.message }));
      log("database: connection open");
    });
  }

  query(text, values) {
    return this.pool.query(text, values);
  }

  /** Runs `work(client)` in one transaction with the tenant's claims; resolves only after COMMIT. */
  async transaction(work) {
    const client = await this.pool.connect();
    let broken;
    try {
      await client.query("BEGIN");
      await client.query("SELECT set_config('request.jwt.claims', $1, true)", [
        JSON.stringify({ role: "booking_app", company_id: this.companyId }),
      ]);
      const result = await work(client);
      const { command } = await client.query("COMMIT");
      // COMMIT of a failed transaction answers ROLLBACK without an error.
      if (command !== "COMMIT") throw new Error(`the transaction ended with ${command}`);
      return result;
    } catch (error) {
      // Without an SQLSTATE the connection's own state is unknown: it is not used again.
      broken = error;
      if (/^[0-9A-Z]{5}$/.test(error.code ?? "")) {
        await client.query("ROLLBACK").then(() => { broken = undefined; }, () => {});
      }
      throw error;
    } finally {
      client.release(broken);
    }
  }

  /** Who answers: identity of the cluster, database, and whether it takes writes. */
  async identity() {
    const client = await this.pool.connect();
    let rows, latency, broken;
    try {
      // The time of one query, not of a connection.
      const started = process.hrtime.bigint();
      await client.query("SELECT 1");
      latency = Number(process.hrtime.bigint() - started) / 1e6;
      ({ rows } = await client.query(`
        SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
               host(inet_server_addr()) AS server_address, inet_server_port() AS server_port,
               pg_postmaster_start_time() AS started, current_database() AS database, current_user AS "user",
               current_setting('server_version') AS version, current_setting('transaction_read_only') = 'on' AS transaction_read_only,
               pg_is_in_recovery() AS in_recovery`));
    } catch (error) {
      broken = error;
      throw error;
    } finally {
      client.release(broken);
    }
    const [found] = rows;
    return { latency_ms: Math.round(latency * 1000) / 1000, read_only: found.transaction_read_only || found.in_recovery, ...found };
  }

  close() {
    return this.pool.end();
  }
}
