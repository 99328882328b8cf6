#!/usr/bin/env python3
"""Keys derived from a master secret, by an implementation that shares no code with this project's.

Written from PROTOCOL.md, "Derived keys", and RFC 5869, with Python's own HMAC.

    derive.py --make derived-1.json     make the vectors, from fixed inputs
    derive.py --check derived-1.json    make them anew and compare
"""

import argparse
import hashlib
import hmac
import json
import struct
import sys


def hmac_sha256(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def derive(master, name, generation):
    prk = hmac_sha256(b"knock/1\x00master", master)  # RFC 5869, 2.2
    info = b"client" + struct.pack(">I", generation) + name.encode("ascii")
    return hmac_sha256(prk, info + b"\x01")  # RFC 5869, 2.3: T(1), of 32 bytes


def vectors():
    made = []
    for master, name, generation in [
        (bytes(range(32)), "press-17", 1),
        (bytes(range(32)), "press-17", 2),
        (bytes(range(32)), "press-18", 1),
        (hashlib.sha256(b"another master").digest(), "press-17", 1),
        (hashlib.sha256(b"another master").digest(), "a" * 64, 2**32 - 1),
    ]:
        secret = derive(master, name, generation)
        made.append({"master": master.hex(), "name": name, "generation": generation, "secret": secret.hex()})
    return {"format": "knock/1 derived keys", "vectors": made}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--make", metavar="FILE")
    parser.add_argument("--check", metavar="FILE")
    args = parser.parse_args()
    if args.make:
        with open(args.make, "w", encoding="ascii") as file:
            json.dump(vectors(), file, indent=2)
            file.write("\n")
    if args.check:
        with open(args.check, encoding="ascii") as file:
            if json.load(file) != vectors():
                sys.exit(f"{args.check}: differs from what is made anew")


main()
