"""KEK in AWS KMS, by boto3: `Encrypt` and `Decrypt` with the AAD as encryption context.

wrapped = 0x03 ‖ CiphertextBlob. Nonces are KMS's. The context is {"sealstream": base64(AAD)}; CloudTrail shows it, and
it holds the KEK's public id only. Region and credentials come as everywhere with boto3.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

from ...crypto.kek import AWS_KMS, wrapped_by
from ...errors import Corrupt, Misuse, Transient
from . import check_tls

LIMITS = Config(connect_timeout=3, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})
_CORRUPT = ("InvalidCiphertextException", "IncorrectKeyException")
_MISUSE = ("NotFoundException", "InvalidKeyUsageException", "ValidationException")


class AwsKmsKek:
    """`key_id` is a key's id, ARN, alias or alias ARN."""

    def __init__(self, key_id: str) -> None:
        self._key_id = key_id
        try:
            self._client: Any = boto3.client("kms", config=LIMITS)
        except NoRegionError:
            raise Misuse("AWS KMS: no region; set AWS_REGION, or the profile's") from None
        except (BotoCoreError, ValueError) as e:
            raise Misuse(f"AWS KMS: boto3 cannot be set up ({type(e).__name__}); see its configuration") from None
        check_tls(self._client.meta.endpoint_url, "AWS KMS: the endpoint")

    def __repr__(self) -> str:
        return "AwsKmsKek(…)"

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        blob: bytes = _answer(
            lambda: self._client.encrypt(KeyId=self._key_id, Plaintext=plain, EncryptionContext=_context(aad))
        )["CiphertextBlob"]
        return AWS_KMS + blob

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        blob = wrapped_by(AWS_KMS, wrapped)
        if not blob:
            raise Corrupt("a wrapped key does not read back as it was written")
        plain: bytes = _answer(
            lambda: self._client.decrypt(KeyId=self._key_id, CiphertextBlob=blob, EncryptionContext=_context(aad))
        )["Plaintext"]
        return plain


def _context(aad: bytes) -> dict[str, str]:
    return {"sealstream": base64.b64encode(aad).decode()}


def _answer(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except ClientError as e:
        code = str(e.response.get("Error", {}).get("Code", ""))
        if code in _CORRUPT:
            raise Corrupt(f"AWS KMS did not make this wrapped key, or not under this key ({code})") from None
        if code in _MISUSE:
            raise Misuse(f"AWS KMS: there is no such symmetric key in this region ({code})") from None
        raise Transient(f"AWS KMS refuses ({code}); check the credentials, and the key's policy and state") from None
    except BotoCoreError as e:
        raise Transient(f"AWS KMS does not answer ({type(e).__name__})") from None
