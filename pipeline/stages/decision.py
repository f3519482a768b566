"""What an operator says: two identifiers are one person (`link`), or are not (`cut`); one is to be erased (`erase`).

In: a decoded event of such a schema, with its tokens taken out (`left` and `right`, or `subject`: tokens already, taken
as they are). Out: its anchor, the one of the stronger kind. Rejects: `wrong_source`, `bad_identifier`, `no_identifier`,
`bad_value`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..events import ERASE
from ..outcomes import Reason, Rejected, Stage
from .decode import Decoded
from .identity_rows import token_rank
from .normalize import KINDS

SOURCE = "operator"
"""Nobody else decides. Its records are signed with the key ring (`stages.authenticate`)."""

_ERASURE = re.compile(r"[0-9a-f]{32}\Z")
_TOKEN = re.compile(r"([a-z][a-z0-9_]*)\.[1-9][0-9]{0,8}\.[0-9a-f]{32}\Z")


def well_formed(text: str) -> str | None:
    """Return `text` if it reads `<kind>.<key version>.<32 hex>` with a kind that there is, else None."""
    found = _TOKEN.match(text)
    return text if found is not None and found[1] in KINDS else None


def strongest(tokens: Mapping[str, str]) -> str:
    """Return the token of the strongest kind; of equal ones the first by its text."""
    return min(tokens.values(), key=token_rank)


def anchor(decoded: Decoded, tokens: Mapping[str, str]) -> str | Rejected:
    """Return the anchor of such an event, or why it is none; `tokens` as its schema's `extract` gives them."""
    if decoded.source != SOURCE:
        return _reject(decoded, Reason.WRONG_SOURCE, "source-id", f"only the source {SOURCE} may send it")
    if decoded.schema.schema.type == ERASE:
        return _subject(decoded, tokens)
    for path in ("left", "right"):
        if path not in tokens:
            return _reject(decoded, Reason.NO_IDENTIFIER, path, "is empty")
    if tokens["left"] == tokens["right"]:
        return _reject(decoded, Reason.BAD_IDENTIFIER, "right", "is the same token as left")
    return strongest(tokens)


def _subject(decoded: Decoded, tokens: Mapping[str, str]) -> str | Rejected:
    body = decoded.body
    if "subject" not in tokens:
        return _reject(decoded, Reason.NO_IDENTIFIER, "subject", "is empty")
    if not _ERASURE.match(body.erasure):
        return _reject(decoded, Reason.BAD_VALUE, "erasure", "is not 32 hex digits")
    if body.partitions < 1:
        return _reject(decoded, Reason.BAD_VALUE, "partitions", "must be at least 1")
    if decoded.extra is not None:  # would be sealed under a key of the person
        return _reject(decoded, Reason.BAD_VALUE, "", "an erasure has no other fields")
    return tokens["subject"]


def _reject(decoded: Decoded, reason: Reason, path: str, rule: str) -> Rejected:
    return Rejected(decoded.record, Stage.TOKENIZE, reason, path, rule, decoded.schema.title)
