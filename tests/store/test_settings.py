"""Settings: which source wins, what is refused, and that the file is read as TOML reads it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gemlet.errors import ConfigError
from gemlet.store.settings import KEYS, cache_dir, config_dir, config_file, data_dir, read_settings


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(environ: dict[str, str], text: str) -> Path:
    path = config_file(environ)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_without_file_and_environment(environ):
    settings = read_settings({}, environ)
    assert set(settings) == set(KEYS)
    assert {s.origin for s in settings.values()} == {"default"}
    assert settings["weights"].value == "auto" and settings["model"].value is None


def test_flag_beats_environment_beats_file(environ):
    path = write(environ, 'model = "from-file"\nthreads = 3\ncontext = 100\n')
    environ |= {"GEMLET_MODEL": "from-environment", "GEMLET_THREADS": "2"}
    settings = read_settings({"model": "from-flag", "context": None}, environ)
    assert (settings["model"].value, settings["model"].origin) == ("from-flag", "flag")
    assert (settings["threads"].value, settings["threads"].where) == (2, "GEMLET_THREADS")
    assert (settings["context"].value, settings["context"].where) == (100, f"{path}:3")


def test_empty_variable_counts_as_not_set(environ):
    assert read_settings({}, environ | {"GEMLET_MODEL": ""})["model"].origin == "default"


@pytest.mark.parametrize(
    ("text", "value"),
    [("5GB", 5 * 10**9), ("512MiB", 512 * 2**20), ("123", 123), ("0", 0)],
)
def test_cache_limit_units(environ, text, value):
    assert read_settings({}, environ | {"GEMLET_CACHE_LIMIT": text})["cache_limit"].value == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'x'", "unknown setting 'modle'"),
        ("threads = 0", "threads must be a whole number from 1"),
        ("threads = true", "threads must be a whole number"),
        ("threads = -2", "threads must be a whole number"),
        ("weights = 'int3'", "must be one of auto, stored, bf16, int8, int4"),
        ("model = x", "is not a TOML value"),
        ("model = ''", "must be text"),
        ("[section]", "cannot be read"),
        ("model = 'a' 'b'", "cannot be read"),
        ('model = "a\\q"', "unknown escape"),
        ("threads = 1\nthreads = 2", "set twice"),
        ("history = 'maybe'", "must be true or false"),
        ("cache_limit = '5 parsecs'", "number of bytes"),
    ],
)
def test_wrong_lines_name_file_and_line(environ, text, message):
    path = write(environ, "# a comment\n" + text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings({}, environ)
    assert f"{path}:{2 + text.count(chr(10))}" in str(caught.value)
    assert caught.value.exit_code == 7


def test_wrong_variable_is_named(environ):
    with pytest.raises(ConfigError, match="GEMLET_THREADS"):
        read_settings({}, environ | {"GEMLET_THREADS": "many"})


def test_unknown_flag_is_named(environ):
    with pytest.raises(ConfigError, match="'colour'"):
        read_settings({"colour": "red"}, environ)


def test_file_that_is_not_text(environ):
    path = config_file(environ)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings({}, environ)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_accepted_files_mean_what_toml_says(environ):
    import tomllib

    text = (
        '  model = "a \\"b\\" \\\\ # not a comment"  # a comment\n\n'
        "weights='int8'\nthreads = +4\ncontext = 8_192\noffline = true\nhistory=false\n"
    )
    write(environ, text)
    settings = read_settings({}, environ)
    for key, value in tomllib.loads(text).items():
        assert settings[key].value == value


def test_folders_follow_xdg(tmp_path):
    environ = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("CONFIG", "CACHE", "DATA")}
    assert config_dir(environ) == tmp_path / "CONFIG" / "gemlet"
    assert cache_dir(environ) == tmp_path / "CACHE" / "gemlet"
    assert data_dir(environ) == tmp_path / "DATA" / "gemlet"
    assert cache_dir({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "gemlet"


def test_no_home_folder_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no home"))))
    with pytest.raises(ConfigError, match="set HOME, or XDG_CACHE_HOME"):
        cache_dir({})
    assert cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "gemlet"
