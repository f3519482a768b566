"""The providers that keep the KEK elsewhere than in the key file, chosen by SEALSTREAM_KEK.

    pkcs11:token=T;object=K?module-path=/lib.so&pin-source=file:/pin    an HSM
    aws-kms:<key id, ARN or alias/name>                                 AWS KMS
    vault:<mount>/<key>                                                 Vault Transit

Each is a `crypto.kek.Kek` whose every call asks the provider, bounded in time, with the retries of its library. Those
are extras of the distribution, imported here only when they are chosen.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from ...crypto.kek import Kek
from ...errors import Misuse


def provider(kek: str) -> Kek | None:
    """Return the provider that `kek` names, None for `file`; asks nobody yet.

    `Misuse` if its library is not installed, or `kek` does not say all that it needs.
    """
    kind, _, where = kek.partition(":")
    try:
        match kind:
            case "file":
                return None
            case "pkcs11":
                from .pkcs11_token import Pkcs11Kek, parse

                return Pkcs11Kek(parse(where))
            case "aws-kms":
                from .aws_kms import AwsKmsKek

                return AwsKmsKek(where)
            case "vault":
                from .vault_transit import VaultKek

                return VaultKek(where)
    except ModuleNotFoundError:
        extra = kind.removesuffix("-kms")
        raise Misuse(f"SEALSTREAM_KEK names {kind}, which needs: pip install 'sealstream[{extra}]'") from None
    raise Misuse("SEALSTREAM_KEK: no such provider")


def check_tls(url: str, setting: str) -> None:
    """`Misuse` if the KEK would cross a network in clear."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise Misuse(f"{setting} must be https: the key-encryption key goes there")
