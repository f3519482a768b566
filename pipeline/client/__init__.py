"""The producer's library: events that are sealed and signed before they leave the process. Thin on Kafka's clients.

    with Producer({"bootstrap.servers": "localhost:9092"}, source="shop", keys=document, secret=secret) as producer:
        producer.send({"type": "identify", "messageId": "m-1", "userId": "u-1"}, key="u-1")

`document` is what `sealstream keys public --json` prints, `secret` what `sealstream sources add shop` does.
`AsyncProducer` is the same for asyncio.
"""

from .asynchronous import AsyncProducer
from .synchronous import Producer

__all__ = ["AsyncProducer", "Producer"]
