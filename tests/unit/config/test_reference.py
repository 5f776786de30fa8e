"""docs/configuration.md is what the code says."""

from pathlib import Path

from gatepost.config import load_settings, setting_names
from gatepost.config.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "run: python -m gatepost.config > docs/configuration.md"


def test_the_page_has_every_setting_once() -> None:
    text = reference()
    for name in setting_names():
        assert text.count(f"| `{name}` |") == 1, name


def test_the_example_on_the_page_loads(tmp_path: Path) -> None:
    example = reference().split("```toml\n")[1].split("```")[0]
    (tmp_path / "gatepost.toml").write_text(example)
    settings = load_settings(tmp_path / "gatepost.toml", environ={})
    assert settings.smtp.max_message_bytes == 100 << 20
    assert settings.listen.lmtp == ()
