"""The home directory: one platform at a time, its secrets, and what it writes for shells."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from medical_image_processing.entrypoints.home import Home
from medical_image_processing.entrypoints.settings import Settings
from medical_image_processing.errors import Conflict, InvalidRequest, Unavailable


def settings(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(**{"home": tmp_path / "home", "pacs": tmp_path, **changes})


def test_a_home_belongs_to_one_platform_until_that_ends(tmp_path: Path) -> None:
    with Home(tmp_path / "home"):
        with pytest.raises(Conflict) as caught, Home(tmp_path / "home"):
            pass
        assert caught.value.code == "HOME_IN_USE"
    with Home(tmp_path / "home"):
        pass


def test_a_home_that_cannot_be_made_is_a_stated_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable) as caught, Home(tmp_path / "file" / "home"):
        pass
    assert caught.value.code == "HOME_UNUSABLE"


def test_secrets_are_made_once_and_are_the_owners_alone(tmp_path: Path) -> None:
    with Home(tmp_path / "home") as home:
        first = home.secrets(settings(tmp_path, host="0.0.0.0"))
        assert home.secrets(settings(tmp_path, host="0.0.0.0")) == first
    with Home(tmp_path / "home") as home:
        assert home.secrets(settings(tmp_path, host="0.0.0.0")) == first
    assert (tmp_path / "home/secrets.json").stat().st_mode & 0o777 == 0o600
    with Home(tmp_path / "other") as home:
        other = home.secrets(settings(tmp_path, host="0.0.0.0"))
    assert not set(vars(first).values()) & set(vars(other).values())


def test_the_seeds_keys_open_only_a_loopback_platform(tmp_path: Path) -> None:
    with Home(tmp_path / "home") as home:
        local = home.secrets(settings(tmp_path))
        assert (local.admin_key, local.pacs_key) == ("dev-admin", "devkey")
        outside = home.secrets(settings(tmp_path, host="0.0.0.0"))
        assert outside.admin_key != "dev-admin" and outside.pacs_key != "devkey"
    assert "dev-admin" not in (tmp_path / "home/secrets.json").read_text()


def test_the_env_file_is_private_survives_any_value_and_goes_with_the_platform(tmp_path: Path) -> None:
    strange = 'it\'s $HOME `id` "x"\\'
    with Home(tmp_path / "home") as home:
        file = home.write_env({"ODD": strange, "API_BASE": "http://127.0.0.1:1"})
        assert file.stat().st_mode & 0o777 == 0o600
        said = subprocess.run(
            ["/bin/sh", "-c", f'. "{file}" && printf %s "$ODD"'], capture_output=True, text=True, check=True
        )
        assert said.stdout == strange
    assert not file.exists()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"host": "0.0.0.0"}, "CLIENTS_UNPROTECTED"),
        ({"host": "192.0.2.1"}, "CLIENTS_UNPROTECTED"),
        ({"host": "::"}, "CLIENTS_UNPROTECTED"),
        ({"host": "example.org"}, "CLIENTS_UNPROTECTED"),
        ({"host": "0.0.0.0", "open_clients": True, "admin_key": "dev-admin"}, "WEAK_ADMIN_KEY"),
        ({"public_url": "https://mip.example"}, "CLIENTS_UNPROTECTED"),
        ({"public_url": "https://mip.example", "open_clients": True, "admin_key": "dev-admin"}, "WEAK_ADMIN_KEY"),
        ({"public_url": "mip.example", "open_clients": True}, "BAD_PUBLIC_URL"),
        ({"port": 70_000}, "BAD_PORT"),
        ({"pacs": Path("/no/such/folder")}, "NO_SUCH_FOLDER"),
        ({"allow_commands": Path("/no/such/folder")}, "NO_SUCH_FOLDER"),
    ],
    ids=str,
)
def test_settings_that_are_unsafe_or_cannot_work_are_refused(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        settings(tmp_path, **changes).check()
    assert caught.value.code == code


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_needs_no_decision_about_clients(tmp_path: Path, host: str) -> None:
    settings(tmp_path, host=host).check()
    assert settings(tmp_path, host=host).is_private


def test_a_platform_behind_a_proxy_has_no_key_that_everybody_knows(tmp_path: Path) -> None:
    with Home(tmp_path / "home") as home:
        private = home.secrets(settings(tmp_path))
        public = home.secrets(settings(tmp_path, public_url="https://mip.example", open_clients=True))
    assert (private.admin_key, private.pacs_key) == ("dev-admin", "devkey")
    assert len(public.admin_key) > 32 and len(public.pacs_key) > 32


@pytest.mark.parametrize(
    ("host", "local"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")],
)
def test_this_machine_reaches_the_platform_by_an_address_it_listens_on(
    tmp_path: Path, host: str, local: str
) -> None:
    assert settings(tmp_path, host=host).local_host == local


def test_the_admin_key_is_not_in_what_settings_print(tmp_path: Path) -> None:
    assert "hush-hush" not in repr(settings(tmp_path, admin_key="hush-hush"))
