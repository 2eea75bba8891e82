"""The running Caddy, asked as a client asks."""

import json
import re

CURL = "curl -ksS --max-time 10 --connect-to ::127.0.0.1:"


def get(host, url, options=""):
    head, _unused, body = host.check_output(f"{CURL} -D - {options} {url}").replace("\r", "").partition("\n\n")
    headers = {name.lower(): value.strip() for name, _unused, value in (line.partition(":") for line in head.splitlines()[1:])}
    return head.splitlines()[0].split()[1], headers, body


def test_service_runs_as_its_own_user_and_starts_at_boot(host):
    service = host.service("caddy")
    assert service.is_running
    assert service.is_enabled
    assert {process.user for process in host.process.filter(comm="caddy")} == {"caddy"}


def test_listens_on_what_is_declared_only(host):
    listening = set(re.findall(r"(\S+):(\d+)\s+\S+:\*", host.check_output("ss -Hltnp | grep caddy")))
    assert listening == {("*", "80"), ("*", "443"), ("*", "8080"), ("127.0.0.1", "2020")}


def test_both_instances_answer_over_tls(host):
    assert host.check_output("systemctl is-active upstream@3001") == "active"
    ports = {json.loads(get(host, "https://app.test/")[2])["port"] for _unused in range(12)}
    assert ports == {3000, 3001}


def test_plain_http_leads_to_tls(host):
    status, headers, _unused = get(host, "http://app.test/x")
    assert (status, headers["location"]) == ("308", "https://app.test/x")


def test_security_headers(host):
    _unused, headers, _unused = get(host, "https://www.app.test/")
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert "server" not in headers
    assert "x-powered-by" not in headers


def test_site_without_tls_has_its_own_headers(host):
    status, headers, _unused = get(host, "http://plain.test:8080/")
    assert (status, headers["x-site"]) == ("200", "plain")
    assert "strict-transport-security" not in headers


def test_answers_are_compressed_when_asked_for(host):
    _unused, headers, _unused = get(host, "https://app.test/", "-H 'Accept-Encoding: gzip' -o /dev/null")
    assert headers["content-encoding"] == "gzip"


def test_websocket_passes(host):
    assert host.check_output("python3 /opt/websocket.py") == "101 frozen"


def test_old_tls_is_refused(host):
    assert host.run(f"{CURL} --tls-max 1.1 https://app.test/").rc == 35
    assert host.run(f"{CURL} --tlsv1.3 -o /dev/null https://app.test/").rc == 0


def test_only_caddys_user_reaches_its_interface(host):
    assert host.file("/run/caddy").mode == 0o700
    assert host.run("curl -sS --max-time 2 http://127.0.0.1:2019/config/").rc == 7


def test_refused_configuration_left_nothing(host):
    assert "no_such_option" not in host.file("/etc/caddy/Caddyfile").content_string
    assert host.run("ls /etc/caddy/*.rejected /root/.local/share/caddy").stdout == ""


def test_the_sandbox_is_tight(host):
    level = float(re.search(r"level for \S+: ([\d.]+)", host.check_output("systemd-analyze security --no-pager caddy"))[1])
    assert level <= 2.5
