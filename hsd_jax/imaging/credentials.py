"""C2PA content credentials: the provenance mark, signed with the user's own certificate.

Needs the extra `c2pa`.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsd_jax.imaging.provenance import SOURCE_TYPE, Mark

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_STATES = {"Trusted": "trusted", "Valid": "valid, on no list of trusted signers"}


@dataclass(frozen=True)
class Credentials:
    """A certificate and its key, to sign images with."""

    certificate: bytes
    """The chain in PEM, the signer's own certificate first."""
    key: bytes
    """Its private key, PKCS #8 in PEM, without a password."""

    @classmethod
    def read(cls, certificate: Path, key: Path) -> "Credentials":
        """Reads two PEM files.

        Raises:
          ValueError: if the extra is missing, a file cannot be read, or C2PA does not allow this
            kind of key.
        """
        _library()
        try:
            found = cls(certificate.read_bytes(), key.read_bytes())
        except OSError as error:
            raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
        if b"BEGIN CERTIFICATE" not in found.certificate:
            raise ValueError(f"{certificate} is no certificate in PEM: give the signer's chain")
        found._algorithm(str(key))
        return found

    def _algorithm(self, name: str = "the key") -> str:
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(self.key, None)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name} is no private key in PEM without a password") from error
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return "ed25519"
        if isinstance(key, rsa.RSAPrivateKey):
            return "ps256"
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
            return _CURVES[key.curve.name]
        raise ValueError(f"{name} is of a kind that C2PA does not allow: use P-256, Ed25519 or RSA")

    def sign(self, image: bytes, format_: str, mark: Mark) -> bytes:
        """Returns the file with signed credentials.

        Args:
          image: the content of an image file.
          format_: "PNG", "JPEG" or "WEBP".
          mark: the mark to sign.

        Raises:
          ValueError: if the certificate does not fit its key, or breaks C2PA's rules.
        """
        c2pa = _library()
        info = c2pa.C2paSignerInfo(self._algorithm(), self.certificate, self.key, None)
        signed = io.BytesIO()
        try:
            with c2pa.Signer.from_info(info) as signer, c2pa.Builder(_manifest(mark)) as builder:
                builder.sign(signer, f"image/{format_.lower()}", io.BytesIO(image), signed)
        except c2pa.C2paError as error:
            raise ValueError(f"the image cannot be signed: {error}") from error
        return signed.getvalue()


def signer_of(path: Path) -> str | None:
    """Returns who signed an image file and whether the signature is valid; None if nobody did.

    Without the extra it is None, too: the credentials cannot be read then.
    """
    try:
        c2pa = _library()
    except ValueError:
        return None
    try:
        with c2pa.Reader(str(path)) as reader:
            told = json.loads(reader.json())
    except c2pa.C2paError:
        return None
    active = told["manifests"][told["active_manifest"]]
    name = active.get("signature_info", {}).get("issuer", "unknown")
    return f"{name} ({_STATES.get(told.get('validation_state', ''), 'not valid: it was changed')})"


def _manifest(mark: Mark) -> str:
    made = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "description": mark.text}
    agent = {"name": "hsd_jax", "version": mark.version}
    return json.dumps({
        "claim_generator_info": [agent],
        "title": "head swap",
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [made]}}],
    })  # fmt: skip


def _library() -> Any:
    try:
        import c2pa
    except ModuleNotFoundError:
        raise ValueError("C2PA needs an extra: pip install 'hsd-jax[c2pa]'") from None
    return c2pa
