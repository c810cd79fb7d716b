"""Errors of examples that cannot be trained on, by the kind as which they are counted."""

# Damaged or useless data, which count against `data.max_bad_share`.
BAD_KINDS = ("bad_record", "bad_image", "bad_text")
# Examples that the configuration leaves out, which do not.
FILTERED_KINDS = ("filtered_length", "filtered_field", "filtered_duplicate")
ERROR_KINDS = BAD_KINDS + FILTERED_KINDS
CUT_TEXT = "cut_text"  # counts packed texts that lost their ends; they are trained on


class BadExample(Exception):
    """An example that cannot be used.

    `kind` is one of ERROR_KINDS: `bad_record` could not be read, `bad_image` could not be decoded,
    `bad_text` has no caption, or one that is not UTF-8. `reason` says what is wrong, if known.
    """

    def __init__(self, kind: str, cause: Exception | str | None = None):
        if isinstance(cause, Exception):
            cause = f"{type(cause).__name__}: {cause}"
        super().__init__(kind if cause is None else f"{kind} ({cause})")
        self.kind, self.reason = kind, cause or kind


class TooManyPixels(BadExample):
    """An image that would take too much memory to decode."""
