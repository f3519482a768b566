"""The exception tree. Bad data is never an exception: it is an `outcomes.Rejected`.

SealstreamError
├── Transient      a dependency is away; the same call may succeed later (exit code 3 when given up)
├── Fatal          ours, or the operator's: the process ends without acknowledging (exit code 1)
│   └── Corrupt    stored state or a key file does not read back as it was written
└── Misuse         wrong use of a command or setting; the message says what to do (exit code 2)

Messages never contain a value from an event, a key, or a token's input.
"""

from __future__ import annotations


class SealstreamError(Exception):
    exit_code = 1


class Transient(SealstreamError):
    exit_code = 3


class Fatal(SealstreamError):
    exit_code = 1


class Corrupt(Fatal):
    pass


class Misuse(SealstreamError):
    exit_code = 2
