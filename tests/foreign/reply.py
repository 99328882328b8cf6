#!/usr/bin/env python3
"""The replies of wire format 1, by an implementation that shares no code with this project's.

Written from PROTOCOL.md, "Reply", with knock.py beside it for RFC 5869 and RFC 8439.

    reply.py --make reply-1.json                  make the vectors, from fixed inputs
    reply.py --check reply-1.json                 make them anew and compare
    reply.py --open HEX --key BASE64 --request HEX   what a reply to this datagram says, in JSON
"""

import argparse
import base64
import hashlib
import hmac
import ipaddress
import json
import struct
import sys

import knock

REPLY_LEN = 100
RESULTS = {1: "open", 2: "closed"}


def reply_keys(secret, realm):
    prk = knock.hmac_sha256(b"knock/1" + realm.encode("ascii"), secret)
    labels = ("reply-seal", "reply-mac")
    return {label: knock.hmac_sha256(prk, label.encode() + b"\x01") for label in labels}


def body(clock, seen, until, result):
    return struct.pack(">Q16sQB7x", clock, knock.address_bytes(seen), until, result)


def reply(secret, realm, request_mac, nonce, plaintext):
    keys = reply_keys(secret, realm)
    covered = nonce + knock.seal(keys["reply-seal"], nonce, request_mac, plaintext)
    return covered + knock.hmac_sha256(keys["reply-mac"], request_mac + covered)


def open_reply(secret, realm, request_mac, packet):
    """The fields of a reply; ends the program if it isn't one to this request."""
    keys = reply_keys(secret, realm)
    covered, mac = packet[:-32], packet[-32:]
    if len(packet) != REPLY_LEN:
        sys.exit("not a reply: its length")
    if not hmac.compare_digest(mac, knock.hmac_sha256(keys["reply-mac"], request_mac + covered)):
        sys.exit("not a reply to this request: the mac")
    nonce, sealed = covered[:12], covered[12:]
    # The cipher is its own inverse, and sealing the same text again gives the same tag.
    plaintext = knock.chacha20(keys["reply-seal"], nonce, sealed[:-16])
    if knock.seal(keys["reply-seal"], nonce, request_mac, plaintext) != sealed:
        sys.exit("not a reply to this request: the seal")
    clock, seen, until, result, reserved = struct.unpack(">Q16sQB7s", plaintext)
    if reserved != bytes(7) or result not in RESULTS or (result == 2 and until != 0):
        sys.exit("not a reply: malformed")
    address = ipaddress.IPv6Address(seen)
    return {
        "clock": clock,
        "seen": str(address.ipv4_mapped or address),
        "until": until,
        "result": RESULTS[result],
    }


# --- vectors ------------------------------------------------------------------------------------


def inputs():
    """What the vectors are made from: bytes that anybody can make again, and look random."""

    def draw(label, count):
        return hashlib.sha256(b"knock reply vectors: " + label.encode()).digest()[:count]

    for number, (name, realm, seen, until, result) in enumerate(
        [
            ("open, IPv4", "", "192.0.2.7", 1790000030123, 1),
            ("open, IPv6", "", "2001:db8::7", 1790003600123, 1),
            ("closed", "", "192.0.2.7", 0, 2),
            ("open, in a realm", "plant 7/gate-2", "10.77.0.2", 1790000001000, 1),
            ("open, the largest numbers", "", "203.0.113.255", (1 << 64) - 1, 1),
        ]
    ):
        yield {
            "name": name,
            "secret": draw(f"secret {number}", 32).hex(),
            "realm": realm,
            "request_mac": draw(f"request mac {number}", 32).hex(),
            "nonce": draw(f"nonce {number}", 12).hex(),
            "clock": (1 << 64) - 1 if "largest" in name else 1790000000123,
            "seen": seen,
            "until": until,
            "result": result,
        }


def made(vector):
    secret = bytes.fromhex(vector["secret"])
    keys = reply_keys(secret, vector["realm"])
    plaintext = body(vector["clock"], vector["seen"], vector["until"], vector["result"])
    nonce, request_mac = bytes.fromhex(vector["nonce"]), bytes.fromhex(vector["request_mac"])
    return {
        "key_reply_seal": keys["reply-seal"].hex(),
        "key_reply_mac": keys["reply-mac"].hex(),
        "body": plaintext.hex(),
        "reply": reply(secret, vector["realm"], request_mac, nonce, plaintext).hex(),
    }


def refused():
    """Replies that the first vector's client must refuse, each with its reason."""
    first = next(inputs())
    secret, realm = bytes.fromhex(first["secret"]), first["realm"]
    request_mac, nonce = bytes.fromhex(first["request_mac"]), bytes.fromhex(first["nonce"])
    keys = reply_keys(secret, realm)

    def with_body(plaintext):
        return reply(secret, realm, request_mac, nonce, plaintext)

    good = body(first["clock"], first["seen"], first["until"], first["result"])
    genuine = with_body(good)
    other_mac = bytes([request_mac[0] ^ 1]) + request_mac[1:]
    covered = genuine[:-48] + bytes(16)
    spoilt = covered + knock.hmac_sha256(keys["reply-mac"], request_mac + covered)
    for name, reason, packet in [
        ("a byte is missing", "length", genuine[:-1]),
        ("a byte too many", "length", genuine + b"\0"),
        ("to another request", "bad-mac", reply(secret, realm, other_mac, nonce, good)),
        ("another realm's", "bad-mac", reply(secret, "other", request_mac, nonce, good)),
        ("another key's", "bad-mac", reply(bytes(range(32)), realm, request_mac, nonce, good)),
        ("a seal that doesn't open", "bad-seal", spoilt),
        ("result 0", "malformed", with_body(good[:32] + b"\0" + good[33:])),
        ("result 3", "malformed", with_body(good[:32] + b"\3" + good[33:])),
        ("closed with a time", "malformed", with_body(good[:32] + b"\2" + good[33:])),
        ("a reserved byte", "malformed", with_body(good[:39] + b"\1")),
        ("no client's address", "malformed", with_body(good[:8] + bytes(16) + good[24:])),
        ("loopback", "malformed", with_body(good[:8] + knock.address_bytes("::1") + good[24:])),
    ]:
        yield {"name": name, "reason": reason, "reply": packet.hex()}


def whole():
    return {
        "format": "knock wire format 1: replies",
        "vectors": [{**vector, **made(vector)} for vector in inputs()],
        "refused": list(refused()),
    }


def main():
    parser = argparse.ArgumentParser(description="Replies of wire format 1.")
    parser.add_argument("--make", metavar="FILE")
    parser.add_argument("--check", metavar="FILE")
    parser.add_argument("--open", metavar="HEX")
    parser.add_argument("--key", help="the client's secret in base64")
    parser.add_argument("--realm", default="")
    parser.add_argument("--request", metavar="HEX", help="the datagram that was sent")
    options = parser.parse_args()
    if options.make:
        with open(options.make, "w", encoding="utf-8") as file:
            json.dump(whole(), file, indent=1)
            file.write("\n")
    if options.check:
        with open(options.check, encoding="utf-8") as file:
            if json.load(file) != whole():
                sys.exit(f"{options.check} isn't what is made anew")
        print(f"{len(whole()['vectors'])} replies made anew, byte for byte")
    if options.open:
        secret = base64.b64decode(options.key, validate=True)
        request_mac = bytes.fromhex(options.request)[-32:]
        packet = bytes.fromhex(options.open)
        print(json.dumps(open_reply(secret, options.realm, request_mac, packet)))


if __name__ == "__main__":
    main()
