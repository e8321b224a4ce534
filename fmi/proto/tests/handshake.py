#!/usr/bin/env python3
"""The handshake of two ranks a second time, from its description and not from its code.

Prints what `fmi/proto/src/handshake.txt` holds, or compares itself with that file, whose name is given:

    pip install blake3 cryptography
    fmi/proto/tests/handshake.py fmi/proto/src/handshake.txt
"""

import sys

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

NONE = bytes(32)


def u32(number):
    return number.to_bytes(4, "big")


def derive(label, *parts):
    hasher = blake3(derive_key_context="fmi 3 " + label)
    for part in parts:
        hasher.update(u32(len(part)) + part)
    return hasher.digest()


def tag(key, *parts):
    return blake3(b"".join(parts), key=key).digest()


def transcript():
    session, size, epoch, generation = bytes([9]) * 16, 3, 0, 0
    mode, suite, kind, is_answer = 1, 2, 1, 0x80
    group = derive("group", b"job-a", b"0123456789abcdef")
    group_id = tag(group, b"id")
    members = [(bytes([rank]) * 16, bytes([rank]) * 60) for rank in range(size)]
    told = b"".join(nonce + blake3(card).digest() for nonce, card in members)
    head = b"fmi 3 roster" + group_id + session + u32(generation) + u32(epoch) + u32(size) + NONE
    roster = blake3(head + told).digest()

    secrets = [X25519PrivateKey.from_private_bytes(bytes([rank + 1]) * 32) for rank in range(size)]
    public = [secret.public_key().public_bytes_raw() for secret in secrets]
    shared = secrets[0].exchange(X25519PublicKey.from_public_bytes(public[1]))
    pair = derive("pair", derive("psk", group), shared, public[0], public[1], roster, u32(0), u32(1), bytes([mode, suite]))

    def hello(own, peer, nonce, answers=None):
        what = kind | (is_answer if answers else 0)
        body = b"FMI\x03" + bytes([what]) + session + u32(own) + u32(peer) + u32(epoch) + nonce
        return body + tag(derive("hello", pair, NONE, u32(own)), body, answers or b"")

    low, high = bytes([4]) * 16, bytes([5]) * 16
    hello_0, hello_1 = hello(0, 1, low), hello(1, 0, high)
    answer = hello(1, 0, high, answers=low)
    both = blake3(hello_0 + hello_1).digest()
    secret = derive("stream", pair, NONE, both, NONE)
    said = {name: tag(derive(label, secret), both) for name, label in
            [("nomination", "nominate"), ("settlement", "settle"), ("acceptance", "accept")]}
    return {
        "id": group_id,
        "roster": roster,
        "pair": pair,
        "hello of rank 0": hello_0,
        "hello of rank 1": hello_1,
        "answer of rank 1": answer,
        "transcript": both,
        "transcript with the answer": blake3(hello_0 + answer).digest(),
        **said,
        "up": derive("up", secret),
        "down": derive("down", secret),
        "chain": derive("chain", secret),
    }


def main():
    lines = "".join(f"{name}: {value.hex()}\n" for name, value in transcript().items())
    if len(sys.argv) == 1:
        print(lines, end="")
    elif open(sys.argv[1]).read() != lines:
        sys.exit(f"{sys.argv[1]} is not what this implementation computes:\n{lines}")


main()
