// Answers with what it was started from and with; ends cleanly so that a reload drops no request.
"use strict";
require("dotenv").config({ quiet: true });
const cluster = require("node:cluster");
const http = require("node:http");

const server = http.createServer((request, response) => {
  const health = request.url === "/health";
  response.writeHead(health ? 200 : 404, { "Content-Type": "application/json" });
  response.end(
    JSON.stringify({ release: process.env.APP_RELEASE, folder: process.cwd(), greeting: process.env.GREETING, pid: process.pid, mode: process.env.MODE }) + "\n",
  );
});

server.listen(Number(process.env.PORT), "127.0.0.1", () => process.send?.("ready"));
process.on("SIGINT", () => {
  const end = () => process.exit(0);
  if (cluster.isWorker) {
    // A connection may be on its way here: exit() would lose it, and its client hangs. disconnect() waits until the primary sends no more.
    process.once("disconnect", end);
    cluster.worker.disconnect();
  } else {
    server.close(end);
  }
  server.closeIdleConnections();
});
