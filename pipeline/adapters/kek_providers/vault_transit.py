"""KEK in Vault's Transit engine, by hvac: `encrypt` and `decrypt` with the AAD as `associated_data` (Vault 1.9).

wrapped = 0x04 ‖ Vault's text `vault:v<version>:…`. Nonces and key versions are Vault's, and a rotated key opens what
its earlier versions wrapped. Address, token and CA come as everywhere with Vault: VAULT_ADDR, VAULT_NAMESPACE,
VAULT_CACERT; VAULT_TOKEN or ~/.vault-token, read at each call, for an agent renews it.

What Vault refuses is told by its words: it answers 400 without a token, too, and has answered 500 to a ciphertext that
does not open (hashicorp/vault issue 10842). What is not known to be of the ciphertext or the key may mend itself.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from typing import Any

import hvac
from hvac.exceptions import InternalServerError, InvalidPath, InvalidRequest, VaultError
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from urllib3.util import Retry

from ...crypto.kek import VAULT, wrapped_by
from ...errors import Corrupt, Misuse, SealstreamError, Transient
from . import check_tls

TIMEOUT = 3
RETRIES = Retry(1, backoff_factor=0.2, status_forcelist=(412, 502, 503), allowed_methods=None, raise_on_status=False)
"""Of writes, too: both calls change nothing. 412: a replica that lags behind."""
_NO_KEY = "encryption key not found"
_OF_THE_KEY = re.compile(r"not supported for key type|non-AEAD cipher|for key derivation")
_OF_THE_CIPHERTEXT = re.compile(
    r"(?:1 error occurred:\s*\* )?"
    r"(?:invalid ciphertext|missing ciphertext|cipher: message authentication failed|unable to decrypt"
    r"|ciphertext or signature version is disallowed)"
)
"""At the beginning: Vault's own storage may fail with these words, too, after others."""


class VaultKek:
    """`place` is `<mount>/<key>`; the key must be of an AEAD type (aes256-gcm96, the default)."""

    def __init__(self, place: str) -> None:
        self._mount, _, self._name = place.rpartition("/")
        if not (self._mount and self._name):
            raise Misuse("SEALSTREAM_KEK must read vault:<mount>/<key>")
        check_tls(self._client().url, "VAULT_ADDR")

    def __repr__(self) -> str:
        return "VaultKek(…)"

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        transit = self._client().secrets.transit
        text = _answer(
            "ciphertext",
            lambda: transit.encrypt_data(
                self._name, plaintext=_text(plain), associated_data=_text(aad), mount_point=self._mount
            ),
        )
        return VAULT + text.encode()

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        body = wrapped_by(VAULT, wrapped)
        transit = self._client().secrets.transit
        text = _answer(
            "plaintext",
            lambda: transit.decrypt_data(
                self._name,
                ciphertext=body.decode("ascii", "replace"),
                associated_data=_text(aad),
                mount_point=self._mount,
            ),
        )
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            raise Transient("Vault's answer is no base64") from None

    def _client(self) -> Any:
        client = hvac.Client(timeout=TIMEOUT, namespace=os.environ.get("VAULT_NAMESPACE"))
        for scheme in ("https://", "http://"):
            client.adapter.session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
        return client


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _answer(field: str, ask: Callable[[], Any]) -> str:
    """Return a field of the answer."""
    try:
        return str(ask()["data"][field])
    except InvalidPath:
        raise Misuse("Vault: no transit engine at this mount") from None
    except VaultError as e:
        raise _refused(e) from None
    except RequestException as e:
        raise Transient(f"Vault does not answer ({type(e).__name__})") from None
    except (KeyError, TypeError):
        raise Transient("what answers at VAULT_ADDR is no transit engine") from None


def _refused(error: VaultError) -> SealstreamError:
    said = [str(text) for text in error.errors or ()] if isinstance(error, InvalidRequest | InternalServerError) else []
    if any(_OF_THE_CIPHERTEXT.match(text) for text in said):
        return Corrupt("Vault did not make this wrapped key, or not under this key")
    if _NO_KEY in said:
        return Misuse("Vault: there is no such key at this mount")
    if any(_OF_THE_KEY.search(text) for text in said):
        return Misuse("Vault: the key does not work with associated data; make one of type aes256-gcm96")
    return Transient(f"Vault refuses ({type(error).__name__}); check its seal, the token and its policy")
