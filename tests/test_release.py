"""What names the version of a release says the same everywhere."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_newest_release_of_the_changelog_is_this_version():
    releases = re.findall(
        r"^## (\d\S*) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert releases[0] == VERSION


def test_the_release_has_a_note():
    major, minor, _ = VERSION.split(".")
    note = ROOT / f"docs/release-{major}.{minor}.md"
    assert note.read_text().startswith(f"# Release {major}.{minor}\n")
    assert f"\nrelease-{major}.{minor}\n" in (ROOT / "docs/index.md").read_text()


def test_the_example_for_kubernetes_runs_this_version():
    assert re.findall(
        r"image: lemmse-server:(\S+)", (ROOT / "docker/kubernetes/lemmse.yaml").read_text()
    ) == [VERSION]
