"""The benchmarks run: one short turn of each variant, some mebibytes through the proxy. No target is judged here."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import proxy, stream

pytestmark = pytest.mark.alone


@pytest.mark.slow
@pytest.mark.redis
def test_every_variant_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """nginx, Caddy, a naive proxy and Portero answer under load, and the table names each of them."""
    assert proxy.main(["--rounds", "1", "--seconds", "1", "--warm-up", "0"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for variant in proxy.VARIANTS:
        assert f"\n{variant} " in printed
    for first, second, _ in proxy.TARGETS:
        assert f"{first} / {second}: " in printed


def test_memory_does_not_grow_with_the_body() -> None:
    """64 MiB each way (the benchmark has a gibibyte)."""
    assert asyncio.run(stream.measure(64 * 1024 * 1024)) <= stream.MAX_GROWTH_BYTES


def test_a_missing_program_is_an_error_that_names_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is skipped silently."""
    monkeypatch.setattr("benchmarks._proxies.process.shutil.which", lambda *_a, **_k: None)
    assert proxy.main(["--rounds", "1", "--only", "nginx"]) == 2
    assert "is not installed (Debian package: " in capsys.readouterr().err
