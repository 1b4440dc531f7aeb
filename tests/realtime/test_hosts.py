"""Which of fal's hosts a request means, and which pages may send one."""

from ipaddress import ip_network
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from realtime.certs import HOSTS
from realtime.hosts import Role, Target, base_of, forwarded, is_fal, origin_allowed, queue_base_of, target


@pytest.mark.parametrize(
    ("host", "role"),
    [
        ("fal.run", Role.RUN),
        ("FAL.RUN:443", Role.RUN),
        ("ws.fal.run", Role.RUN),
        ("queue.fal.run", Role.QUEUE),
        ("falrun.com", Role.RUN),
        ("ws.falrun.com:443", Role.RUN),
        ("Queue.FALRUN.com", Role.QUEUE),
        ("rest.fal.ai", Role.REST),
        ("rest.alpha.fal.ai:8443", Role.REST),
        ("110602490-lcm.gateway.alpha.fal.ai", Role.LEGACY),
        ("v3.fal.media", Role.CDN),
        ("localhost:8000", Role.PLAIN),
        ("127.0.0.1:8000", Role.PLAIN),
        ("[::1]:8000", Role.PLAIN),
        ("notfal.run", Role.PLAIN),
        ("notfalrun.com", Role.PLAIN),
        ("falrun.com.evil.example", Role.PLAIN),
        ("fal.run.evil.example", Role.PLAIN),
        ("", Role.PLAIN),
        ("[", Role.PLAIN),
    ],
)
def test_a_host_has_a_role(host: str, role: Role):
    assert target(host, "/x").role is role


@pytest.mark.parametrize("host", HOSTS)
def test_every_name_that_is_mapped_here_is_one_of_fals(host: str):
    assert is_fal(host)


def test_a_path_prefix_sets_the_host():
    found = target("localhost:8000", "/__h/rest.alpha.fal.ai/tokens/")
    assert found == Target(Role.REST, "rest.alpha.fal.ai", "/tokens/", "/__h/rest.alpha.fal.ai")


def test_a_path_prefix_alone_is_the_root_of_its_host():
    assert target("localhost", "/__h/fal.run").path == "/"


@pytest.mark.parametrize(
    ("host", "path", "endpoint"),
    [
        ("fal.run", "/fal-ai/lcm/realtime", "fal-ai/lcm"),
        ("fal.run", "/fal-ai/lcm/ws", "fal-ai/lcm"),
        ("fal.run", "/fal-ai/lcm/image-to-image/realtime", "fal-ai/lcm/image-to-image"),
        ("fal.run", "/fal-ai/lcm/my/own/path", "fal-ai/lcm/my/own/path"),
        ("fal.run", "//fal-ai//lcm/realtime/", "fal-ai/lcm"),
        ("localhost", "/fal-ai/lcm/realtime", "fal-ai/lcm"),
        ("110602490-lcm-sd15-i2i.gateway.alpha.fal.ai", "/ws", "110602490-lcm-sd15-i2i"),
        ("110602490-lcm.gateway.alpha.fal.ai", "/image-to-image/ws", "110602490-lcm/image-to-image"),
        ("localhost", "/ws", ""),
        ("localhost", "/", ""),
    ],
)
def test_a_realtime_path_names_an_endpoint(host: str, path: str, endpoint: str):
    assert target(host, path).endpoint == endpoint


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "http://localhost:3000",
        "https://localhost",
        "http://127.0.0.1:8000",
        "http://127.8.8.8",
        "http://[::1]:5173",
        "http://app.localhost:3000",
        "https://studio.example",
        "https://STUDIO.example:8443",
    ],
)
def test_programs_loopback_pages_and_named_hosts_may_come(origin: str | None):
    assert origin_allowed(origin, "127.0.0.1:8000", ["studio.example"], keys_required=False)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "file://",
        "https://studio.example.evil.example",
        "https://evilstudio.example",
        "https://localhost.evil.example",
        "https://127.0.0.1.evil.example",
        "https://evil.example@localhost.evil.example",
        "chrome-extension://localhost",
        "http://[",
        "http://",
        "http://2130706433",
    ],
)
def test_pages_from_elsewhere_may_not(origin: str):
    assert not origin_allowed(origin, "127.0.0.1:8000", ["studio.example"], keys_required=False)


def test_a_name_that_was_rebound_to_loopback_is_not_the_same_host_on_an_open_server():
    assert not origin_allowed("http://evil.example:8000", "evil.example:8000", [], keys_required=False)


def test_a_page_of_the_very_host_may_come_where_keys_decide():
    assert origin_allowed("https://images.example", "images.example", [], keys_required=True)
    assert not origin_allowed("https://other.example", "images.example", [], keys_required=True)


# ---- links back to us ----


def asked(named: str, path: str = "/", /, peer: str = "127.0.0.1", **headers: str) -> dict[str, Any]:
    """The scope of a request over plain HTTP."""
    given = {"host": named, **{f"x-forwarded-{name}": value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    return {"type": "http", "scheme": "http", "client": (peer, 5), "path": path, "headers": pairs}


def bases(scope: Any) -> tuple[str, str]:
    """What the links to files and to the queue start with, for the client of this request."""
    request = HTTPConnection(scope)
    to = target(request.headers["host"], scope["path"])
    return base_of(request, to), queue_base_of(request, to)


@pytest.mark.parametrize(
    ("host", "path", "files", "queue"),
    [
        ("localhost:8000", "/fal-ai/lcm", "http://localhost:8000", "http://localhost:8000"),
        ("[::1]:8000", "/fal-ai/lcm", "http://[::1]:8000", "http://[::1]:8000"),
        (
            "localhost:8000",
            "/__h/queue.fal.run/fal-ai/lcm",
            "http://localhost:8000",
            "http://localhost:8000/__h/queue.fal.run",
        ),
        (
            "localhost:8000",
            "/__h/fal.run/fal-ai/lcm",
            "http://localhost:8000",
            "http://localhost:8000/__h/queue.fal.run",
        ),
        # names that are mapped here are so with TLS, and all of them
        ("queue.fal.run", "/fal-ai/lcm", "https://v3.fal.media", "https://queue.fal.run"),
        ("fal.run:443", "/fal-ai/lcm", "https://v3.fal.media", "https://queue.fal.run"),
        ("queue.falrun.com", "/fal-ai/lcm", "https://v3.fal.media", "https://queue.fal.run"),
    ],
)
def test_links_lead_where_the_client_came_from(host: str, path: str, files: str, queue: str):
    assert bases(asked(host, path)) == (files, queue)


PROXY = [ip_network("127.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({}, "http://inner:8000"),
        ({"proto": "https"}, "https://inner:8000"),
        ({"proto": "HTTPS", "host": "a.example:8443"}, "https://a.example:8443"),
        ({"host": "a.example, inner.example", "proto": "https, http"}, "https://a.example"),
        ({"host": "a.example", "prefix": "/lcm/v1/"}, "http://a.example/lcm/v1"),
        ({"host": "[2001:db8::1]:80"}, "http://[2001:db8::1]:80"),
        # what no proxy writes is as if it were not there
        ({"proto": "gopher"}, "http://inner:8000"),
        ({"host": "a.example/evil?"}, "http://inner:8000"),
        ({"host": "a b"}, "http://inner:8000"),
        ({"prefix": "//evil.example"}, "http://inner:8000"),
        ({"prefix": "/a?b"}, "http://inner:8000"),
        ({"prefix": "lcm"}, "http://inner:8000"),
    ],
)
def test_a_trusted_proxy_is_believed(headers: dict[str, str], base: str):
    assert bases(forwarded(asked("inner:8000", **headers), PROXY))[0] == base


@pytest.mark.parametrize("peer", ["10.0.0.1", "::1", "::ffff:10.0.0.1", "not an address"])
def test_anybody_else_is_not(peer: str):
    scope = asked("inner:8000", peer=peer, host="evil.example", proto="https", prefix="/x")
    assert forwarded(scope, PROXY) is scope


def test_a_proxy_on_a_unix_socket_or_none_at_all_is_not_believed():
    assert (
        forwarded({**asked("inner", host="evil.example"), "client": None}, PROXY)["headers"][0][1] == b"inner"
    )
    assert bases(forwarded(asked("inner", host="evil.example"), []))[0] == "http://inner"


def test_a_proxy_is_known_by_its_ipv4_address_on_a_listener_for_both():
    scope = asked("inner", peer="::ffff:127.0.0.1", host="a.example")
    assert bases(forwarded(scope, PROXY))[0] == "http://a.example"


@pytest.mark.parametrize("path", ["/lcm/fal-ai/lcm", "/fal-ai/lcm"])
def test_the_prefix_is_cut_off_the_path_unless_the_proxy_did(path: str):
    scope = forwarded(asked("inner", path, prefix="/lcm"), PROXY)
    assert (scope["path"], scope["root_path"]) == ("/fal-ai/lcm", "/lcm")


def test_a_forwarded_host_decides_the_role():
    scope = forwarded(asked("inner", "/fal-ai/lcm", host="queue.fal.run"), PROXY)
    assert target(HTTPConnection(scope).headers["host"], scope["path"]).role is Role.QUEUE


def test_the_scheme_of_a_socket_is_that_of_a_socket():
    scope = {**asked("inner", proto="https"), "type": "websocket", "scheme": "ws"}
    assert forwarded(scope, PROXY)["scheme"] == "wss"
    assert bases(forwarded(scope, PROXY))[0] == "https://inner"
