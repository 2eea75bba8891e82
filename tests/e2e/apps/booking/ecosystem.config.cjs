// Two API processes share the port; one worker serves the queue. Secrets are not here: each process reads .env in this directory.
const common = { cwd: __dirname, time: false, merge_logs: true, kill_timeout: 9000, listen_timeout: 10000, wait_ready: true, max_memory_restart: "300M" };

module.exports = {
  apps: [
    { ...common, name: "booking-api", script: "src/api.js", exec_mode: "cluster", instances: 2 },
    { ...common, name: "booking-worker", script: "src/worker.js", exec_mode: "fork", instances: 1 },
  ],
};
