"""A Hetzner Cloud on this machine: the API, and servers that are real systemd machines. See README.md."""
