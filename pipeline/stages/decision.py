"""An operator's decision about who is who: two identifiers are one person (`link`), or are not (`cut`).

In: a decoded event of such a schema, with its tokens taken out (`left`, `right`: tokens already, taken as they are).
Out: its anchor, the one of the stronger kind. Rejects: `wrong_source`, `bad_identifier`, `no_identifier`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..outcomes import Reason, Rejected, Stage
from .decode import Decoded
from .identity_rows import token_rank
from .normalize import KINDS

SOURCE = "operator"
"""Nobody else decides. A header until sources sign: who may write to `events.raw` may call himself that."""

_TOKEN = re.compile(r"([a-z][a-z0-9_]*)\.[1-9][0-9]{0,8}\.[0-9a-f]{32}\Z")


def well_formed(text: str) -> str | None:
    """Return `text` if it reads `<kind>.<key version>.<32 hex>` with a kind that there is, else None."""
    found = _TOKEN.match(text)
    return text if found is not None and found[1] in KINDS else None


def strongest(tokens: Mapping[str, str]) -> str:
    """Return the token of the strongest kind; of equal ones the first by its text."""
    return min(tokens.values(), key=token_rank)


def anchor(decoded: Decoded, tokens: Mapping[str, str]) -> str | Rejected:
    """Return the anchor of a decision, or why it is none; `tokens` as its schema's `extract` gives them."""
    if decoded.source != SOURCE:
        return _reject(decoded, Reason.WRONG_SOURCE, "source-id", f"only the source {SOURCE} decides who is who")
    for path in ("left", "right"):
        if path not in tokens:
            return _reject(decoded, Reason.NO_IDENTIFIER, path, "is empty")
    if tokens["left"] == tokens["right"]:
        return _reject(decoded, Reason.BAD_IDENTIFIER, "right", "is the same token as left")
    return strongest(tokens)


def _reject(decoded: Decoded, reason: Reason, path: str, rule: str) -> Rejected:
    return Rejected(decoded.record, Stage.TOKENIZE, reason, path, rule, decoded.schema.title)
