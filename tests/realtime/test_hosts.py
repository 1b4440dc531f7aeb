"""Which of fal's hosts a request means, and which pages may send one."""

import pytest

from realtime.hosts import Role, Target, origin_allowed, target


@pytest.mark.parametrize(
    ("host", "role"),
    [
        ("fal.run", Role.RUN),
        ("FAL.RUN:443", Role.RUN),
        ("ws.fal.run", Role.RUN),
        ("queue.fal.run", Role.QUEUE),
        ("rest.fal.ai", Role.REST),
        ("rest.alpha.fal.ai:8443", Role.REST),
        ("110602490-lcm.gateway.alpha.fal.ai", Role.LEGACY),
        ("v3.fal.media", Role.CDN),
        ("localhost:8000", Role.PLAIN),
        ("127.0.0.1:8000", Role.PLAIN),
        ("[::1]:8000", Role.PLAIN),
        ("notfal.run", Role.PLAIN),
        ("fal.run.evil.example", Role.PLAIN),
        ("", Role.PLAIN),
        ("[", Role.PLAIN),
    ],
)
def test_a_host_has_a_role(host: str, role: Role):
    assert target(host, "/x").role is role


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
