#!/usr/bin/env python3
"""A client for wire format 1 that shares no code with this project.

Written from PROTOCOL.md alone, with nothing but Python's standard library, to show that the
document is enough to write one; ChaCha20-Poly1305 is from RFC 8439. It sends any value in any
field, sealed with the right key, so that tests can tell what the daemon makes of it.

    knock.py --key BASE64 --to 10.77.0.1:62201 --address 10.77.0.2 --service mqtts
    knock.py --key BASE64 --address :: --hex             print the datagram, send nothing
    knock.py --check wire-format-1.json                  make the vectors anew and compare
"""

import argparse
import base64
import hashlib
import hmac
import ipaddress
import json
import os
import socket
import struct
import sys
import time

DAY_MS = 86_400_000
COUNTER_DAY = 0xFFFFFFFF


# --- keys: RFC 5869 -----------------------------------------------------------------------------


def hmac_sha256(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def derive(secret, realm):
    """The three keys of a client."""
    prk = hmac_sha256(b"knock/1" + realm.encode("ascii"), secret)
    # One block of HKDF-Expand gives exactly the 32 bytes wanted.
    return {label: hmac_sha256(prk, label.encode() + b"\x01") for label in ("tag", "seal", "mac")}


# --- ChaCha20-Poly1305: RFC 8439 ----------------------------------------------------------------


def rotate(word, bits):
    return ((word << bits) | (word >> (32 - bits))) & 0xFFFFFFFF


def quarter_round(state, a, b, c, d):
    for target, other, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[target] = (state[target] + state[other]) & 0xFFFFFFFF
        state[mixed] = rotate(state[mixed] ^ state[target], bits)


def chacha20_block(key, counter, nonce):
    constants = b"expand 32-byte k"
    start = struct.unpack("<16I", constants + key + struct.pack("<I", counter) + nonce)
    state = list(start)
    for _ in range(10):
        for column in range(4):
            quarter_round(state, column, column + 4, column + 8, column + 12)
        quarter_round(state, 0, 5, 10, 15)
        quarter_round(state, 1, 6, 11, 12)
        quarter_round(state, 2, 7, 8, 13)
        quarter_round(state, 3, 4, 9, 14)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(state, start)))


def chacha20(key, nonce, text):
    """Encrypts from block 1 on; block 0 is Poly1305's key."""
    stream = b""
    while len(stream) < len(text):
        stream += chacha20_block(key, 1 + len(stream) // 64, nonce)
    return bytes(a ^ b for a, b in zip(text, stream))


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    s = int.from_bytes(key[16:], "little")
    total = 0
    for at in range(0, len(message), 16):
        block = int.from_bytes(message[at : at + 16] + b"\x01", "little")
        total = (total + block) * r % ((1 << 130) - 5)
    return ((total + s) & ((1 << 128) - 1)).to_bytes(16, "little")


def pad16(data):
    return data + bytes(-len(data) % 16)


def seal(key, nonce, aad, plaintext):
    sealed = chacha20(key, nonce, plaintext)
    lengths = struct.pack("<QQ", len(aad), len(sealed))
    tag = poly1305(chacha20_block(key, 0, nonce)[:32], pad16(aad) + pad16(sealed) + lengths)
    return sealed + tag


# --- wire format 1 ------------------------------------------------------------------------------


def address_bytes(text):
    """Sixteen bytes for an address, or for anything else written as 32 hex digits."""
    if len(text) == 32:
        return bytes.fromhex(text)
    if text == "observed":
        return bytes(16)
    address = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def request(timestamp, address, open_for, action, flags, reserved, service):
    return struct.pack(
        ">Q16sIBBH16s", timestamp, address, open_for, action, flags, reserved, service
    )


def datagram(secret, realm, day, nonce, plaintext, tag_secret=None, spoil_seal=False):
    keys = derive(secret, realm)
    tag_key = derive(tag_secret or secret, realm)["tag"]
    tag = hmac_sha256(tag_key, struct.pack(">I", day))[:8]
    sealed = seal(keys["seal"], nonce, tag, plaintext)
    if spoil_seal:
        sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    body = tag + nonce + sealed
    return body + hmac_sha256(keys["mac"], body)


def check(path):
    """Makes every vector of a file anew, and compares it byte for byte."""
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)["vectors"]
    for vector in vectors:
        keys = derive(bytes.fromhex(vector["secret"]), vector["realm"])
        plaintext = request(
            vector["timestamp"], address_bytes(vector["address"] or "observed"),
            vector["open_for_s"], vector["action"], vector["flags"], 0, vector["service"].encode(),
        )
        made = {
            **{f"key_{label}": key.hex() for label, key in keys.items()},
            "request": plaintext.hex(),
            "datagram": datagram(
                bytes.fromhex(vector["secret"]), vector["realm"], vector["day"],
                bytes.fromhex(vector["nonce"]), plaintext,
            ).hex(),
        }
        for field, value in made.items():
            if value != vector[field]:
                sys.exit(f"{vector['name']}: {field} is {value}, not {vector[field]}")
    print(f"{len(vectors)} vectors made anew, byte for byte")


def main():
    parser = argparse.ArgumentParser(description="A foreign client for wire format 1.")
    parser.add_argument("--check", metavar="FILE", help="make the vectors of FILE anew")
    parser.add_argument("--key", help="the client's secret in base64")
    parser.add_argument("--tag-key", help="another client's secret, for the tag alone")
    parser.add_argument("--realm", default="")
    parser.add_argument("--to", help="ADDRESS:PORT to send to")
    parser.add_argument("--hex", action="store_true", help="print the datagram")
    parser.add_argument("--timestamp", type=int, help="instead of this machine's clock")
    parser.add_argument("--clock-offset", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--day", type=int, help="instead of the timestamp's")
    parser.add_argument("--counter", action="store_true", help="the day of clients without clock")
    parser.add_argument("--address", default="observed", help="an address, 'observed', 32 hex digits")
    parser.add_argument("--open-for", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--action", type=int, default=1, help="1 open, 2 close")
    parser.add_argument("--flags", type=int, default=0)
    parser.add_argument("--reserved", type=int, default=0)
    parser.add_argument("--service", default="", help=r"a name; \0 stands for a zero byte in it")
    parser.add_argument("--nonce", help="24 hex digits instead of random ones")
    parser.add_argument("--count", type=int, default=1, help="so many, each with a fresh nonce")
    parser.add_argument("--flip", type=int, metavar="BIT", help="flip a bit of the datagram")
    parser.add_argument("--spoil-seal", action="store_true", help="a seal that doesn't open")
    options = parser.parse_args()
    if options.check:
        check(options.check)
        return
    if not options.key:
        parser.error("--key is missing")

    for _ in range(options.count):
        packet = make(options)
        if options.hex:
            print(packet.hex())
        if options.to:
            send(packet, options.to)


def make(options):
    """The datagram that the command line describes."""
    timestamp = options.timestamp
    if timestamp is None:
        timestamp = int((time.time() + options.clock_offset) * 1000)
    day = COUNTER_DAY if options.counter else options.day
    packet = datagram(
        base64.b64decode(options.key, validate=True),
        options.realm,
        timestamp // DAY_MS if day is None else day,
        bytes.fromhex(options.nonce) if options.nonce else os.urandom(12),
        request(
            timestamp, address_bytes(options.address), options.open_for, options.action,
            options.flags, options.reserved, options.service.encode().replace(b"\\0", b"\0"),
        ),
        base64.b64decode(options.tag_key, validate=True) if options.tag_key else None,
        options.spoil_seal,
    )
    if options.flip is not None:
        packet = bytearray(packet)
        packet[options.flip // 8] ^= 0x80 >> options.flip % 8
    return bytes(packet)


def send(packet, to):
    host, port = to.rsplit(":", 1)
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(packet, (host, int(port)))


if __name__ == "__main__":
    main()
