"""The control endpoint's certificate and the CA that signs it. Pure, but for the chance that keys are made of.

The CA outlives the certificates it signs many times. A new one is trusted by replicas, as the second in the bundle, for
`SETTLES` before it signs; the one before stays in the bundle until it has run out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LASTS = timedelta(days=3650)
CA_RENEWED = timedelta(days=730)
"""Before its end."""
LASTS = timedelta(days=90)
RENEWED = timedelta(days=30)
"""Before its end."""
SETTLES = timedelta(days=1)
"""For which replicas know a new CA before it signs."""
_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Material:
    """Everything, as PEM."""

    ca: bytes
    """Certificates to be trusted, the newest first."""
    ca_key: bytes
    """Of the newest."""
    certificate: bytes
    key: bytes


def renewed(material: Material | None, names: Sequence[str], now: datetime) -> Material:
    """What has to be used from now on; the same object if nothing has to change. What can't be read is made anew."""
    try:
        return _renewed(material, names, now) if material is not None else _first(names, now)
    except (ValueError, TypeError):
        return _first(names, now)


def _first(names: Sequence[str], now: datetime) -> Material:
    key, authority = _authority(now)
    certificate, own = _sign(key, authority, names, now)
    return Material(_pem(authority), _key_pem(key), certificate, own)


def _renewed(material: Material, names: Sequence[str], now: datetime) -> Material:
    trusted = [each for each in x509.load_pem_x509_certificates(material.ca) if each.not_valid_after_utc > now]
    ca_key = serialization.load_pem_private_key(material.ca_key, None)
    certificate = x509.load_pem_x509_certificate(material.certificate)
    serialization.load_pem_private_key(material.key, None)
    if not trusted or not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        return _first(names, now)
    if ca_key.public_key() != trusted[0].public_key():
        return _first(names, now)
    ca, key_pem = material.ca, material.ca_key
    if trusted[0].not_valid_after_utc - now < CA_RENEWED:
        ca_key, authority = _authority(now)
        trusted = [authority, *trusted]
        key_pem = _key_pem(ca_key)
    if len(trusted) != len(x509.load_pem_x509_certificates(material.ca)) or key_pem != material.ca_key:
        ca = b"".join(_pem(each) for each in trusted)
    known = any(_signed_by(certificate, each) for each in trusted)
    settled = now - trusted[0].not_valid_before_utc >= SETTLES + _SKEW or len(trusted) == 1
    due = certificate.not_valid_after_utc - now < RENEWED or _names_of(certificate) != set(names)
    if not known or certificate.not_valid_after_utc <= now or (due and settled):
        signed, own = _sign(ca_key, trusted[0], names, now)
        return Material(ca, key_pem, signed, own)
    if ca == material.ca:
        return material
    return Material(ca, key_pem, material.certificate, material.key)


def _authority(now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"windlass-operator CA {now:%Y-%m-%d}")])
    certificate = (
        _builder(name, name, key.public_key(), now, CA_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _sign(
    ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, names: Sequence[str], now: datetime
) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "windlass-operator")])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), now, LASTS)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - _SKEW)
        .not_valid_after(now.astimezone(UTC) + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(each.value) for each in names}


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it isn't
        return False
    return True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
