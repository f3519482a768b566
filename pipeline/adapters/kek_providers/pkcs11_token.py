"""KEK in a token by PKCS#11 (python-pkcs11): an AES-256 key that stays there, CKM_AES_GCM with AAD.

wrapped = 0x02 ‖ nonce (12) ‖ ciphertext ‖ tag (16). The nonce is random, of the token's generator (C_GenerateRandom):
a KEK of a key file is wrapped once, so the 2^32 of NIST SP 800-38D 8.3 are far. Tokens that insist on a nonce of their
own cannot be used.

Each call logs in, and out: between two of them nothing is held that a token's restart would break.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pkcs11
from pkcs11 import exceptions as refused

from ...crypto.kek import PKCS11, wrapped_by
from ...errors import Corrupt, Misuse, Transient
from .. import private_file

NONCE_BYTES = 12
TAG_BYTES = 16
_NEEDED = ("token", "object", "module-path", "pin-source")
_PIN = (
    refused.PinIncorrect,
    refused.PinInvalid,
    refused.PinLenRange,
    refused.PinLocked,
    refused.PinExpired,
    refused.UserPinNotInitialized,
)
_KEY = (refused.NoSuchKey, refused.MultipleObjectsReturned, refused.MultipleTokensReturned)


class Place(msgspec.Struct, frozen=True):
    """Labels of token and key, the library, and the file with the user's PIN."""

    token: str
    key: str
    library: str
    pin: Path


def parse(uri: str) -> Place:
    """Read what follows `pkcs11:` in a URI of RFC 7512. `Misuse` unless exactly what is needed is in it."""
    path, _, query = uri.partition("?")
    pairs = [pair.partition("=")[::2] for pair in [*path.split(";"), *query.split("&")]]
    given = {name: unquote(value) for name, value in pairs if value}
    source = given.get("pin-source", "")
    if sorted(given) != sorted(_NEEDED) or len(pairs) != len(_NEEDED) or not source.startswith("file:/"):
        raise Misuse(
            "SEALSTREAM_KEK must read pkcs11:token=…;object=…?module-path=…&pin-source=file:/…, without anything else; "
            "a PIN does not belong there"
        )
    return Place(given["token"], given["object"], given["module-path"], Path("/" + source[5:].lstrip("/")))


class Pkcs11Kek:
    def __init__(self, place: Place) -> None:
        if not Path(place.library).is_file():
            raise Misuse("SEALSTREAM_KEK: no library at its module-path")
        self._place = place

    def __repr__(self) -> str:
        return "Pkcs11Kek(…)"

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        with self._key() as (session, key):
            return PKCS11 + _encrypt(session, key, plain, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        body = wrapped_by(PKCS11, wrapped)
        if len(body) < NONCE_BYTES + TAG_BYTES:
            raise Corrupt("a wrapped key does not read back as it was written")
        with self._key() as (session, key):
            try:
                return _decrypt(key, body, aad)
            except refused.PKCS11Error:
                # a false tag is CKR_GENERAL_ERROR on some tokens, as is a defect: what is fresh tells them apart
                if _decrypt(key, _encrypt(session, key, b"probe", aad), aad) != b"probe":
                    raise
        raise Corrupt("the PKCS#11 token did not make this wrapped key, or not under this key")

    @contextmanager
    def _key(self) -> Iterator[tuple[Any, Any]]:
        """Yield a session and the key, and say what of PKCS#11 goes wrong meanwhile."""
        place = self._place
        content = private_file.read(place.pin, "PIN file", 256, "write the token user's PIN there")
        if content is None:
            raise Misuse(f"PIN file {place.pin}: is longer than a PIN")
        try:
            library = pkcs11.lib(place.library)
            library.reinitialize()  # else a token that came or went since is not seen
            token = library.get_token(token_label=place.token)
            with token.open(user_pin=content.decode(errors="replace").removesuffix("\n")) as session:
                yield (
                    session,
                    session.get_key(
                        object_class=pkcs11.ObjectClass.SECRET_KEY, key_type=pkcs11.KeyType.AES, label=place.key
                    ),
                )
        except _PIN as e:
            raise Misuse(f"PKCS#11: the token refuses the PIN ({type(e).__name__}); nothing is tried again") from None
        except _KEY as e:
            raise Misuse(f"PKCS#11: not exactly one AES key, or token, has that label ({type(e).__name__})") from None
        except refused.PKCS11Error as e:
            raise Transient(f"the PKCS#11 token does not answer as it should ({type(e).__name__})") from None


def _encrypt(session: Any, key: Any, plain: bytes, aad: bytes) -> bytes:
    nonce = bytes(session.generate_random(NONCE_BYTES * 8))
    return nonce + bytes(
        key.encrypt(plain, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=_parameters(nonce, aad))
    )


def _decrypt(key: Any, body: bytes, aad: bytes) -> bytes:
    parameters = _parameters(body[:NONCE_BYTES], aad)
    return bytes(key.decrypt(body[NONCE_BYTES:], mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters))


def _parameters(nonce: bytes, aad: bytes) -> pkcs11.GCMParams:
    return pkcs11.GCMParams(nonce, aad, TAG_BYTES * 8)
