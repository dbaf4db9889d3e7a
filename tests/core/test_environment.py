"""What the set-up of an environment reads from the machine."""

from environment import venv


def test_uv_takes_packages_from_where_pip_is_told_to():
    printed = "\n".join(
        [
            ":env:.disable-pip-version-check='1'",
            "global.find-links='/opt/wheels /opt/more'",
            "global.index-url='https://packages.example/simple'",
            "install.constraint='/etc/pip/constraints.txt'",
            r"global.extra-index-url='\nhttps://a.example/simple\nfile:///b/simple'",
            ":env:.default-timeout='180'",
        ]
    )
    assert venv.uv_settings(printed) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/opt/wheels,/opt/more",
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "UV_CONSTRAINT": "/etc/pip/constraints.txt",
        "UV_INDEX": "https://a.example/simple file:///b/simple",
        "UV_HTTP_TIMEOUT": "180",
    }


def test_without_settings_of_pip_uv_needs_none():
    assert venv.uv_settings("") == {"UV_INDEX_STRATEGY": "unsafe-best-match"}
