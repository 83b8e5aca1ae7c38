"""What a verb raises when the user stopped it."""


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """Stopped by the user; the message says how to go on."""
