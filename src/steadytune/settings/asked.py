"""What a verb can be asked for that is no setting of a run: where to write, how much to say, which file to read."""

from __future__ import annotations

from pathlib import Path

from steadytune.settings.fields import OUTPUT, Settings, setting


class Asked(Settings):
    """What every verb that does something can be asked for."""

    quiet: bool = setting(False, "Print nothing but errors.", OUTPUT, short="-q")


class FromFile(Asked):
    """The same, of verbs whose settings can be written in a file."""

    config: Path | None = setting(
        None, "YAML file of settings; options given here take precedence.", OUTPUT, metavar="FILE", first=11
    )
    scale: str | None = setting(None, "Which of the file's scales to run, e.g. small.", OUTPUT, metavar="NAME")
