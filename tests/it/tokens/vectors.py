"""Tokens by another implementation of JOSE: joserfc, and HKDF and AES-GCM of pyca/cryptography.

Reads {"secret", "previous", "now", "minted"} from stdin; `now` is in seconds, `minted` are tokens of ours. Writes

    opened    what each of those claims, and its two headers
    good      tokens that are to be taken, by name, with the claims that are in them
    signed    the same without encryption, which are taken only where that is configured
    refused   tokens that are to be refused, by name, with the reason; all but the expired ones open to who has the keys
"""

import base64
import hmac
import json
import os
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwe, jws
from joserfc.jwk import ECKey, OctKey, RSAKey

ALL_JWE = ["dir", "A256KW", "A256GCMKW", "PBES2-HS256+A128KW", "ECDH-ES", "RSA-OAEP-256",
           "A128GCM", "A192GCM", "A256GCM", "A256CBC-HS512", "A128CBC-HS256", "DEF"]
ENVELOPE = {"alg": "dir", "enc": "A256GCM", "cty": "JWT"}


class Keys:
    def __init__(self, secret):
        def derive(info):
            return HKDF(algorithm=SHA256(), length=32, salt=b"wallcrawler tokens", info=info).derive(secret.encode())

        self.sign, self.encrypt = derive(b"sign HS256"), derive(b"encrypt A256GCM")
        self.id = derive(b"key id")[:8].hex()


def b64(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else data.encode()).rstrip(b"=").decode()


def sign(key, claims, header=None, algorithm="HS256"):
    payload = claims if isinstance(claims, str) else json.dumps(claims)
    key = OctKey.import_key(key) if isinstance(key, bytes) else key
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    header = {"alg": algorithm, "typ": "JWT"} | (header or {})
    return jws.serialize_compact(header, payload, key, registry=registry)


def sign_by_hand(key, claims):
    """HS256 with a key that joserfc takes for none."""
    text = f'{b64(json.dumps({"alg": "HS256"}))}.{b64(json.dumps(claims))}'
    return f'{text}.{b64(hmac.digest(key, text.encode(), "sha256"))}'


def encrypt(key, payload, header):
    key = OctKey.import_key(key) if isinstance(key, bytes) else key
    registry = jwe.JWERegistry(algorithms=ALL_JWE, strict_check_header=False)
    return jwe.encrypt_compact(header, payload, key, registry=registry)


def seal(key, payload, header, iv=12, tag=16):
    """Whatever the header is, `dir` and A256GCM: for what joserfc refuses to write."""
    nonce, protected = os.urandom(iv), b64(header)
    sealed = AESGCM(key).encrypt(nonce, payload.encode(), protected.encode())
    return ".".join([protected, "", b64(nonce), b64(sealed[:-16]), b64(sealed[-16:][:tag])])


def opened(keys, token):
    sealed = jwe.decrypt_compact(token, OctKey.import_key(keys.encrypt), algorithms=["dir", "A256GCM"])
    signed = jws.deserialize_compact(sealed.plaintext, OctKey.import_key(keys.sign), algorithms=["HS256"])
    return {"envelope": sealed.headers(), "header": signed.headers(), "claims": json.loads(signed.payload)}


def main():
    asked = json.load(sys.stdin)
    now, keys, previous = asked["now"], Keys(asked["secret"]), Keys(asked["previous"])
    connect = {"role": "connect", "sub": "ses_1", "uid": "user_1", "iat": now, "exp": now + 60}
    subjects = {
        "connect": connect,
        "view": connect | {"role": "view"},
        "container": {"role": "container", "sub": "ctr_1", "iat": now, "exp": now + 60},
    }
    ours = ENVELOPE | {"kid": keys.id}

    good = {}
    for name, claims in subjects.items():
        good[name] = (encrypt(keys.encrypt, sign(keys.sign, claims), ours), claims)
    inner = sign(keys.sign, connect)
    good["without a kid, as older ones are"] = (encrypt(keys.encrypt, inner, ENVELOPE), connect)
    good["of the previous secret"] = (
        encrypt(previous.encrypt, sign(previous.sign, connect), ENVELOPE | {"kid": previous.id}), connect)
    good["of the previous secret, without a kid"] = (
        encrypt(previous.encrypt, sign(previous.sign, connect), ENVELOPE), connect)
    for name, extra in {
        "a claim that nobody here knows": {"scope": "all"},
        "a jti and an issuer": {"jti": "1", "iss": "elsewhere"},
        "for our audience": {"aud": "wallcrawler"},
        "good since a minute": {"nbf": now - 60},
        "good from now on, by a clock that is ahead": {"nbf": now + 20},
        "expired, by a clock that is ahead": {"exp": now - 20},
    }.items():
        claims = connect | extra
        good[name] = (encrypt(keys.encrypt, sign(keys.sign, claims), ours), claims)

    signed = {name: (sign(keys.sign, claims), claims) for name, claims in subjects.items()}

    rsa, ec = RSAKey.generate_key(2048), ECKey.generate_key("P-256")
    refused = {}

    def refuse(name, token, why="Invalid"):
        refused[name] = (token, why)

    # What the inner token is.
    body, mac = inner.split(".")[1:]
    envelope = json.dumps(ours)
    other = os.urandom(32)
    for name, text in {
        "alg none": jws.serialize_compact({"alg": "none"}, json.dumps(connect), OctKey.import_key(b"x"), algorithms=["none"]),
        "alg none, with the signature of another": f'{b64(json.dumps({"alg": "none"}))}.{body}.{mac}',
        "alg None, in another case": f'{b64(json.dumps({"alg": "NoNe"}))}.{body}.',
        "no alg": f'{b64("{}")}.{body}.{mac}',
        "signed by nobody: the claims alone": json.dumps(connect),
        "HS384 with our key": sign(keys.sign, connect, algorithm="HS384"),
        "HS512 with our key": sign(keys.sign, connect, algorithm="HS512"),
        "RS256": sign(rsa, connect, algorithm="RS256"),
        "RS256 with its key in the header": sign(rsa, connect, {"jwk": rsa.as_dict(private=False)}, "RS256"),
        "ES256": sign(ec, connect, algorithm="ES256"),
        "ES256 with its key in the header": sign(ec, connect, {"jwk": ec.as_dict(private=False)}, "ES256"),
        "HS256 with a key in the header": sign(other, connect, {"jwk": OctKey.import_key(other).as_dict()}),
        "HS256 with a public key for a secret": sign_by_hand(rsa.as_pem(private=False), connect),
        "HS256 with the key of encryption": sign(keys.encrypt, connect),
        "HS256 with the secret itself": sign(asked["secret"].encode(), connect),
        "HS256 with the previous key, under the newer id": sign(previous.sign, connect),
        "a signature cut short": inner[:-8],
        "no signature": inner.rsplit(".", 1)[0] + ".",
        "claims that are a list": sign(keys.sign, "[]"),
        "claims that are no JSON": sign(keys.sign, "hunter2"),
        "a token in a token": encrypt(keys.encrypt, inner, ours),
        "nothing": "",
    }.items():
        refuse(f"inside: {name}", seal(keys.encrypt, text, envelope))

    # What it claims.
    for name, claims in {
        "no role": {k: v for k, v in connect.items() if k != "role"},
        "a role that there is not": connect | {"role": "operator"},
        "a role in another case": connect | {"role": "Connect"},
        "two roles": connect | {"role": ["connect", "view"]},
        "a container's role": connect | {"role": "container"},
        "no user": {k: v for k, v in connect.items() if k != "uid"},
        "a container with a user": subjects["container"] | {"uid": "user_1"},
        "no subject": {k: v for k, v in connect.items() if k != "sub"},
        "a subject that is no session": connect | {"sub": "ctr_1"},
        "a subject with a path": connect | {"sub": "ses_1/../ses_2"},
        "no end": {k: v for k, v in connect.items() if k != "exp"},
        "an end that is a text": connect | {"exp": str(now + 60)},
        "an end before time": connect | {"exp": -1},
        "an end that is no number": connect | {"exp": float("nan")},
        "an end beyond all numbers": connect | {"exp": 10**30},
        "for another audience": connect | {"aud": "elsewhere"},
        "for many audiences": connect | {"aud": ["wallcrawler", "elsewhere"]},
        "for ours, in a list": connect | {"aud": ["wallcrawler"]},
        "for ours, in another case": connect | {"aud": "WallCrawler"},
        "for ours, with a blank": connect | {"aud": "wallcrawler "},
        "for no audience": connect | {"aud": ""},
        "for an audience that is null": connect | {"aud": None},
        "not good yet": connect | {"nbf": now + 3_600},
        "good from a text on": connect | {"nbf": "tomorrow"},
        "too large": connect | {"note": "x" * 2_000},
    }.items():
        refuse(f"claims: {name}", encrypt(keys.encrypt, sign(keys.sign, claims), ours))
    twice = json.dumps(connect)[:-1] + ', "role": "view"}'
    refuse("claims: the role twice", encrypt(keys.encrypt, sign(keys.sign, twice), ours))
    late = connect | {"exp": now - 60}
    refuse("claims: expired", encrypt(keys.encrypt, sign(keys.sign, late), ours), "Expired")

    # How it is encrypted.
    long = OctKey.import_key(keys.encrypt + keys.encrypt)
    for name, (key, header) in {
        "compressed": (keys.encrypt, ours | {"zip": "DEF"}),
        "A128GCM": (keys.encrypt[:16], ours | {"enc": "A128GCM"}),
        "A192GCM": (keys.encrypt[:24], ours | {"enc": "A192GCM"}),
        "A256CBC-HS512": (long, ours | {"enc": "A256CBC-HS512"}),
        "A128CBC-HS256 with our key": (keys.encrypt, ours | {"enc": "A128CBC-HS256"}),
        "A256KW with our key": (keys.encrypt, ours | {"alg": "A256KW"}),
        "A256GCMKW with our key": (keys.encrypt, ours | {"alg": "A256GCMKW"}),
        "PBES2 with our key": (keys.encrypt, ours | {"alg": "PBES2-HS256+A128KW", "p2c": 1_000}),
        "RSA-OAEP-256": (rsa, ours | {"alg": "RSA-OAEP-256"}),
        "ECDH-ES, whose key is in the header (epk)": (ec, ours | {"alg": "ECDH-ES"}),
    }.items():
        refuse(f"envelope: {name}", encrypt(key, inner, header))
    for name, header in {
        "a jwk": ours | {"jwk": OctKey.import_key(keys.encrypt).as_dict()},
        "a jku": ours | {"jku": "https://evil.example.com/keys"},
        "an x5u": ours | {"x5u": "https://evil.example.com/chain"},
        "an epk beside dir": ours | {"epk": ec.as_dict(private=False)},
        "a crit": ours | {"crit": ["exp"], "exp": now + 60},
        "a crit of nothing": ours | {"crit": []},
        "a p2c of 2^31": ours | {"p2c": 2**31 - 1},
        "no cty": {k: v for k, v in ours.items() if k != "cty"},
        "another cty": ours | {"cty": "text/plain"},
        "no alg": {k: v for k, v in ours.items() if k != "alg"},
        "alg DIR": ours | {"alg": "DIR"},
        "alg none": ours | {"alg": "none"},
        "a kid that is a list": ours | {"kid": [keys.id]},
        "a list": [ours],
    }.items():
        refuse(f"envelope: {name}", seal(keys.encrypt, inner, json.dumps(header)))
    refuse("envelope: alg twice", seal(keys.encrypt, inner, envelope[:-1] + ', "alg": "dir"}'))
    refuse("envelope: the id of no secret", seal(keys.encrypt, inner, json.dumps(ours | {"kid": "0" * 16})), "UnknownSecret")
    refuse("envelope: an empty id", seal(keys.encrypt, inner, json.dumps(ours | {"kid": ""})), "UnknownSecret")
    refuse("envelope: the id of the previous secret", seal(keys.encrypt, inner, json.dumps(ours | {"kid": previous.id})))
    refuse("envelope: our id, and the previous key", seal(previous.encrypt, sign(previous.sign, connect), envelope))
    refuse("envelope: a key of nobody", seal(other, inner, envelope))
    refuse("envelope: the key of signatures", seal(keys.sign, inner, envelope))
    refuse("envelope: an IV of 16 bytes", seal(keys.encrypt, inner, envelope, iv=16))
    for bytes_left in (0, 1, 4, 12, 15):
        refuse(f"envelope: a tag of {bytes_left} bytes", seal(keys.encrypt, inner, envelope, tag=bytes_left))

    # How it is written.
    whole = good["connect"][0]
    parts = whole.split(".")
    other_parts = good["view"][0].split(".")
    flat = json.dumps(dict(zip(["protected", "encrypted_key", "iv", "ciphertext", "tag"], parts)))
    for name, token in {
        "as JSON": flat,
        "with a key, though it is dir": ".".join([parts[0], b64(keys.encrypt), *parts[2:]]),
        "with padding": ".".join([parts[0] + "=" * (-len(parts[0]) % 4 or 4), *parts[1:]]),
        "in the other alphabet": whole.replace("-", "+").replace("_", "/") + "+/",
        "with a line break in it": whole[:40] + "\n" + whole[40:],
        "with a space before it": " " + whole,
        "with a NUL after it": whole + "\0",
        "a sixth part": whole + ".",
        "four parts": ".".join(parts[:4]),
        "twice": whole + whole,
        "the header of one and the text of another": ".".join([parts[0], "", parts[2], other_parts[3], parts[4]]),
        "dots": "....",
        "the inner token alone": inner,
        "a megabyte": "e30.e30.e30.e30." + "A" * 1_000_000,
    }.items():
        refuse(f"written: {name}", token)

    def listed(table, fields):
        return [dict(zip(["name", *fields], (name, *row))) for name, row in table.items()]

    json.dump({
        "opened": [opened(keys, token) for token in asked["minted"]],
        "good": listed(good, ["token", "claims"]),
        "signed": listed(signed, ["token", "claims"]),
        "refused": listed(refused, ["token", "why"]),
    }, sys.stdout)


main()
